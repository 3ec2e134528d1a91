"""What is wrong with a request, in its own words: each problem with the path of the parameter and a remedy."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError


@dataclass(frozen=True, slots=True)
class RequestProblem:
    """One thing that is wrong: the parameter's path (`method.sgg.hyperparameters.n_epochs`), a code, and a message."""

    param: str | None
    code: str
    message: str


_BROKEN = re.compile("[\0\ud800-\udfff]")
BROKEN_TEXT = "The text holds a NUL character or half of a surrogate pair. Remove the broken character."

MOST_PROBLEMS = 100  # that one answer names
MOST_DESCRIBED = 1000  # of pydantic's errors: several of them, one for each branch of a union, make one problem
LONGEST_PATH = 300  # characters of a parameter's path
LONGEST_COMPARED = 100  # characters of a name that known ones are compared with, which takes their square
MOST_COMPARED = 50  # unknown names that are compared

MOST_VALUES = 15_000  # of a JSON body, at any depth: more than the largest chat that a trial takes

_Place = tuple[str, "_Place"] | None
_Found = tuple[str, str, str]  # path of the parameter, reason without its full stop, the value as text or ""


def problems_of_request(error: RequestValidationError) -> list[RequestProblem]:
    """Describe what FastAPI found wrong with query, form or body."""
    entries = error.errors()
    return _merged([_found_by_fastapi(entry) for entry in entries[:MOST_DESCRIBED]], len(entries))


def problems_of_model(error: ValidationError, model: type[BaseModel]) -> list[RequestProblem]:
    """Describe what pydantic found wrong with a body that should have been a `model`.

    A union reports one error for each of its branches; here they become one problem for the parameter. An unknown
    name gets the known name that is most like it.
    """
    found: list[_Found] = []
    unknown = 0
    entries = error.errors(include_url=False)
    for entry in entries[:MOST_DESCRIBED]:
        is_unknown = entry["type"] == "extra_forbidden"
        path, parent = _resolve(entry["loc"], model, is_unknown)
        if is_unknown:
            unknown += 1
            found.append((path, _unknown(str(entry["loc"][-1]), parent, unknown <= MOST_COMPARED), ""))
        else:
            found.append((path, *_reason(entry)))
    return _merged(found, len(entries))


def refused_size(body: bytes) -> RequestProblem | None:
    """What is wrong with a JSON body of so many values that checking each of them would keep others waiting."""
    if sum(map(body.count, (b",", b"[", b"{"))) < MOST_VALUES:  # one of these stands before each value but the first
        return None
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):
        return None  # is told as what it is
    values = 0
    while left:
        item = left.pop()
        values += 1
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    if values <= MOST_VALUES:
        return None
    message = f"The body holds {values:,} values, but may hold {MOST_VALUES:,}. Send less: upload examples as a file."
    return RequestProblem(None, "invalid_value", message)


def broken_texts(value: Any, path: str = "") -> list[RequestProblem]:
    """Find the texts that no database can keep, in names and values at any depth, and describe each one."""
    found: list[RequestProblem] = []
    # A list of its own, since a body may be nested deeper than calls may be. A place is a name and the place around it,
    # and becomes a text only where something is wrong: a long name may stand around many values.
    left: list[tuple[_Place, Any]] = [((path, None) if path else None, value)]
    while left and len(found) < MOST_PROBLEMS:
        place, item = left.pop()
        if isinstance(item, str) and _BROKEN.search(item):
            found.append(RequestProblem(_written(place), "invalid_value", BROKEN_TEXT))
        elif isinstance(item, list):
            left += [((str(index), place), part) for index, part in enumerate(item)][::-1]
        elif isinstance(item, Mapping):
            named = [((name, place), name if _BROKEN.search(name) else part) for name, part in item.items()]
            left += named[::-1]
    return found


def whole(text: str) -> str:
    """The text as a database can keep it."""
    return _BROKEN.sub("\ufffd", text)


def _written(place: _Place) -> str:
    names: list[str] = []
    while place is not None:
        name, place = place
        names.append(name)
    return _path(names[::-1])


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that `name` is most like; otherwise tell them all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known names: {', '.join(known)}"


def _unknown(name: str, parent: type[BaseModel] | None, is_compared: bool) -> str:
    if not is_compared or len(name) > LONGEST_COMPARED:
        return f"Unknown name {name[:LONGEST_COMPARED]!r}. Remove it"
    return f"Unknown name {name!r}. {_did_you_mean(name, _names(parent) if parent else [])}"


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _found_by_fastapi(entry: Any) -> _Found:
    path = _path(entry["loc"][1:])
    if entry["type"] == "json_invalid":
        return "", f"The body is not valid JSON: {entry['ctx']['error']} at character {path}. Send a JSON object", ""
    if path:
        return path, *_reason(entry)
    return "", "This request needs a JSON object as its body, with the header `Content-Type: application/json`", ""


def _reason(entry: Any) -> tuple[str, str]:
    if entry["type"] == "missing":
        return "This parameter is required", ""
    given = repr(entry.get("input"))
    return entry["msg"].removeprefix("Value error, ").rstrip("."), given if len(given) <= 60 else given[:57] + "..."


def _merged(found: Sequence[_Found], errors: int) -> list[RequestProblem]:
    """Make one problem of all that was said of one path: the branches of a union, or several entries of a list.

    `errors` counts also those that are not in `found`. The last problem says how many are not named.
    """
    reasons: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for path, reason, value in found:
        if reason not in reasons.setdefault(path, []):
            reasons[path].append(reason)
        given.setdefault(path, value)
    problems = [
        RequestProblem(path or None, "invalid_value", _sentence(", or: ".join(texts), given[path]))
        for path, texts in itertools.islice(reasons.items(), MOST_PROBLEMS)
    ]
    unnamed = len(reasons) - len(problems) + errors - len(found)
    if unnamed:
        message = f"There are {unnamed:,} more problems. Fix those listed here first."
        problems.append(RequestProblem(None, "invalid_value", message))
    return problems


def _sentence(text: str, given: str) -> str:
    if given:
        return f"{text}; it is {given}."
    return text if text.endswith("?") else f"{text}."


def _resolve(
    loc: Sequence[int | str], model: type[BaseModel], ends_unknown: bool
) -> tuple[str, type[BaseModel] | None]:
    """Give the parameter's path without the names of union branches, and the model that its last name belongs to.

    `ends_unknown` says that the last name is one that this model does not have.
    """
    parts: list[int | str] = []
    current: type[BaseModel] | None = model
    parent = current
    for place, part in enumerate(loc, start=1):
        if current is None:
            break
        if isinstance(part, str):
            if part not in _names(current) and not (ends_unknown and place == len(loc)):
                continue
            parent = current
            current = _model_behind(current, part)
        parts.append(part)
    return _path(parts), parent


def _model_behind(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    for field_name, field in model.model_fields.items():
        if name == (field.alias or field_name):
            return next((kind for kind in _flat(field.annotation) if issubclass(kind, BaseModel)), None)
    return None


def _flat(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [kind for argument in get_args(annotation) for kind in _flat(argument)]


def _path(parts: Sequence[int | str]) -> str:
    path = ".".join(str(part) for part in parts)
    return path if len(path) <= LONGEST_PATH else path[: LONGEST_PATH - 3] + "..."
