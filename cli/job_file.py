"""A job as a file: what `POST /v1/fine_tuning/jobs` takes, in YAML or JSON, with paths in the place of file ids.

An error names the line and the field, as the API names it; all of a file's errors are told at once.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import ApiError, CliError, WrongUseError

if TYPE_CHECKING:
    from sgg_core.spec import TrainingSpec

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
REQUEST = ("model", "training_file", "validation_file", "suffix", "seed", "metadata", "method", "hyperparameters")
METHODS = ("sgg", "supervised")
SETTINGS = ("hyperparameters", "sources", "retention_file", "start_from", "priority")
GROUPS = ("task", "lora", "guidance", "evaluation", "checkpoint", "resources")  # the other settings are the optimizer's
Found = tuple[str, str]  # path of a field, and what is wrong with it


@dataclass(frozen=True)
class JobFile:
    """What a file asks for. `lines` has the line, counted from 1, of every field by its path, such as `method.type`."""

    path: Path
    request: dict[str, Any]
    lines: Mapping[str, int]

    @property
    def method(self) -> str:
        """The method that is asked for."""
        return str((self.request.get("method") or {}).get("type", "supervised"))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of that method."""
        method = self.request.get("method") or {}
        return dict(method.get(self.method) or {"hyperparameters": self.request.get("hyperparameters") or {}})

    @property
    def place_of_hyperparameters(self) -> str:
        """Where in the file the hyperparameters stand."""
        return f"method.{self.method}.hyperparameters" if self.request.get("method") else "hyperparameters"

    def path_of(self, reference: str) -> Path:
        """Where a file lies that is named here: beside this file, unless its path says otherwise."""
        return self.path.parent / reference

    def refusal(self, found: Iterable[Found]) -> CliError:
        """Make the error that tells everything that is wrong, each with its line."""
        placed = sorted((self._line(field), field, reason) for field, reason in found)
        told = [f"{self.path}, line {line}, field {field}: {reason}" for line, field, reason in placed]
        return WrongUseError("\n".join(told))

    def explained(self, error: ApiError) -> CliError:
        """Make the server's refusal one that names lines; a refusal of something else stays as it is."""
        found = [(str(one["param"]), str(one["message"])) for one in error.problems if one.get("param")]
        return self.refusal(found) if found else error

    def _line(self, field: str) -> int:
        """Give the line of a field, or of the nearest one around it that is there."""
        while field and field not in self.lines:
            field = field.rpartition(".")[0]
        return self.lines.get(field, 1)


def read_job_file(path: Path) -> JobFile:
    """Read a file and check its names and values. Raises CliError with every problem, its line and its field."""
    request, lines = _parsed(path)
    file = JobFile(path, request, lines)
    found = list(_wrong_names(request))
    if not found:
        found = list(_wrong_values(file))
    if found:
        raise file.refusal(found)
    return file


def spec_of(file: JobFile, lora: Mapping[str, Any] | None = None) -> TrainingSpec:
    """Return what the trainer is told. `lora` holds for what the file does not say of it.

    Raises pydantic's ValidationError for values out of bounds.
    """
    from sgg_core.spec import TrainingSpec

    hyperparameters = dict(file.settings.get("hyperparameters") or {})
    groups = {name: hyperparameters.pop(name) for name in GROUPS if name in hyperparameters}
    if lora is not None:
        groups["lora"] = {**lora, **groups.get("lora", {})}
    optimization = {("epochs" if name == "n_epochs" else name): value for name, value in hyperparameters.items()}
    seed = file.request.get("seed")
    return TrainingSpec.model_validate(
        {
            "base_model": file.request["model"],
            "method": file.method,
            "seed": 0 if seed is None else seed,
            "optimization": optimization,
            **groups,
        }
    )


def refuse_beside_spec(*options: object) -> None:
    """Raise CliError if an option that the file speaks of was given, too."""
    if any(option is not None and option not in ([], ()) for option in options):
        raise WrongUseError(
            "--spec describes the whole job, so it cannot be combined with other options of the job.",
            "Leave out --spec or the other options.",
        )


def _wrong_names(request: Mapping[str, Any]) -> Iterator[Found]:
    yield from _unknown("", request, REQUEST)
    for name in ("model", "training_file"):
        if not isinstance(request.get(name), str):
            yield name, "It is missing or is not a string. Name the base model or the file."
    yield from _wrong_texts("", request, ("validation_file",))
    yield from _no_settings("hyperparameters", request.get("hyperparameters"))
    method = request.get("method", {})
    if not isinstance(method, dict):
        yield "method", "It must hold `type` and settings."
        return
    yield from _unknown("method.", method, ("type", *METHODS))
    if "method" in request and method.get("type") not in METHODS:
        yield "method.type", f"It must be one of {', '.join(METHODS)}."
    for name in METHODS:
        settings = method.get(name, {})
        if not isinstance(settings, dict):
            yield f"method.{name}", "It must hold settings."
        else:
            yield from _unknown(f"method.{name}.", settings, SETTINGS)
            yield from _no_settings(f"method.{name}.hyperparameters", settings.get("hyperparameters"))
            yield from _wrong_texts(f"method.{name}.", settings, ("retention_file", "start_from"))
            sources = settings.get("sources")
            if sources is not None and not _is_list_of_texts(sources):
                yield f"method.{name}.sources", "It must be a list, of the path or id of each file."


def _wrong_texts(prefix: str, given: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Found]:
    for name in names:
        if not isinstance(given.get(name), str | None):
            yield f"{prefix}{name}", "It must be a string: a path or an id."


def _no_settings(field: str, given: object) -> Iterator[Found]:
    if not isinstance(given, dict | None):
        yield field, "It must hold settings."


def _is_list_of_texts(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


def _wrong_values(file: JobFile) -> Iterator[Found]:
    from pydantic import ValidationError

    try:
        spec_of(file)
    except ValidationError as error:
        reasons: dict[str, list[str]] = {}
        for one in error.errors():
            field, known = _field_of(file, one["loc"])
            reason = _suggested(str(one["loc"][-1]), known) if one["type"] == "extra_forbidden" else one["msg"]
            if reason not in reasons.setdefault(field, []):
                reasons[field].append(reason)  # a union of types reports one error for each of its branches
        yield from ((field, _sentence(" or ".join(several))) for field, several in reasons.items())


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _field_of(file: JobFile, place: tuple[int | str, ...]) -> tuple[str, tuple[str, ...]]:
    """Turn a place in the training spec into the API's path, and give the names that are known there."""
    from sgg_core.spec import TrainingSpec

    if place[0] in ("base_model", "method", "seed"):
        return {"base_model": "model", "method": "method.type", "seed": "seed"}[str(place[0])], ()
    group = TrainingSpec.model_fields[str(place[0])].annotation
    known = tuple(getattr(group, "model_fields", {}))
    if place[0] == "optimization":
        names = tuple("n_epochs" if name == "epochs" else name for name in known)
        own = "n_epochs" if place[1] == "epochs" else str(place[1])
        return f"{file.place_of_hyperparameters}.{own}", (*names, *GROUPS)
    return ".".join([file.place_of_hyperparameters, *(str(part) for part in place[:2])]), known


def _unknown(prefix: str, given: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[Found]:
    for name in given:
        if name not in known:
            yield f"{prefix}{name}", _suggested(str(name), known)  # YAML's names can be numbers


def _suggested(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"There is no such field. Did you mean {close[0]!r}?" if close else f"Known are {', '.join(known)}."


def _parsed(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a file and the lines of its fields.

    JSON is nearly YAML: its tabs and its pairs of escapes for one character are not.
    """
    import yaml

    from cli.yaml_lines import Loader, lines_of

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CliError(f"Cannot read {path}: {reason}.", "Give the path of a job in YAML or JSON.") from error
    value: Any = None
    with suppress(ValueError):
        value = json.loads(text)
        text = text.replace("\t", " ")  # its texts have none
    try:
        lines = lines_of(yaml.compose(text, Loader=Loader))
        if value is None:
            value = yaml.load(text, Loader=Loader)  # nosec B506 # a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WrongUseError(f"{path}, line {line}: {error.problem}.", "Write the job in YAML or JSON.") from error
    except yaml.YAMLError as error:
        raise WrongUseError(f"{path}: {error}.", "Write the job in YAML or JSON.") from error
    if not isinstance(value, dict):
        raise WrongUseError(f"{path}, line 1: it holds no fields.", "Begin with `model: ...`.")
    return value, lines
