"""What an adapter is asked: rows without their answers as examples. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from sgg_core.errors import DataError, Problem
from sgg_core.parsing import excerpt
from sgg_core.shapes import (
    REQUIRED,
    ChatExample,
    ChatMessage,
    ClassificationExample,
    CompletionExample,
    Example,
    Kind,
    Role,
    is_broken,
    joined_parts,
    known_role,
)


def asked_examples(kind: Kind, rows: Sequence[Mapping[str, Any]], filename: str, lines: Sequence[int]) -> list[Example]:
    """Rows as in a data file of this kind, without the label, completion or last answer, on these `lines` of a file.

    Raises DataError naming the line of every row that cannot be used.
    """
    wanted = REQUIRED[kind][0]
    examples: list[Example] = []
    problems: list[Problem] = []
    for line, row in zip(lines, rows, strict=True):
        try:
            examples.append(_example(kind, row))
        except (KeyError, TypeError, AttributeError):
            problems.append(_lacking(line, row, wanted))
        except ValueError:
            reason = "The text holds a NUL or half of a surrogate pair."
            problems.append(Problem(line, wanted, reason, "Remove the broken character."))
    if problems:
        raise DataError(filename, tuple(problems))
    return examples


def _lacking(line: int, row: Mapping[str, Any], wanted: str) -> Problem:
    """What is wrong with a row that this adapter cannot answer."""
    if wanted in row and wanted != "messages" and row[wanted] not in ("", None) and not isinstance(row[wanted], str):
        return Problem(line, wanted, f"The value {excerpt(row[wanted])} is not a string.", "Write it as a string.")
    if wanted in row:
        return Problem(
            line,
            wanted,
            f"The field {wanted!r}, which this adapter needs, is empty or has the wrong form.",
            f"Fill in {wanted!r} in every row.",
        )
    names = {name.lower(): name for name in row}
    close = get_close_matches(wanted, names, n=1)
    named = f" Rename the field {names[close[0]]!r} if it is the one meant." if close else ""
    fields = ", ".join(excerpt(name) for name in list(row)[:5])
    reason = f"This adapter needs the field {wanted!r}; this row has {fields or 'no fields'}."
    return Problem(line, wanted, reason, f"Fill in {wanted!r} in every row.{named}")


def _example(kind: str, row: Mapping[str, Any]) -> Example:
    """A row without its answer as an example.

    Raises KeyError, TypeError or AttributeError where it is no such row, ValueError for a text with a broken character.
    """
    if kind == "classification":
        return ClassificationExample(
            _words(row["text"]), "", _words(row["text_pair"]) if row.get("text_pair") else None
        )
    if kind == "completion":
        return CompletionExample(_words(row["prompt"]), "")
    turns = tuple(ChatMessage(_role(turn["role"]), _words(joined_parts(turn["content"]))) for turn in row["messages"])
    if turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise TypeError("nothing to answer")
    return ChatExample(turns)


def _role(value: object) -> Role:
    role = known_role(value)
    if role is None:
        raise TypeError("not a role")
    return role


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("not a text")
    if is_broken(value):
        raise ValueError("a broken character")
    return value
