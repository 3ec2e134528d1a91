"""What the command line reports as one line and an exit code instead of a traceback."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgg_core.errors import DataError


class CliError(Exception):
    """An expected failure: what happened, what to do about it, and the exit code of the process."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class WrongUseError(CliError):
    """The command was called in a way that it cannot be; nothing was done."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy, exit_code=2)


class ServerUnreachableError(CliError):
    """No answer came from the server, or one that says it is not ready; trying again later may help."""


class ApiError(CliError):
    """The server understood the request and refused it. `problems` are told one by one, most with their `param`."""

    def __init__(
        self, status: int, code: str | None, message: str, remedy: str = "", problems: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.code = code
        self.problems = problems


class SeveralFilesError(CliError):
    """More than one data file cannot be used; `problems` are those of all of them, each with its `file`."""

    def __init__(self, errors: Sequence[DataError]) -> None:
        super().__init__("\n".join(error.message for error in errors))
        self.code = errors[0].code
        self.problems = [problem for error in errors for problem in _problems_of(error)]


def cannot_read(path: Path, error: OSError) -> CliError:
    """The failure to read a file that was named."""
    return CliError(f"Cannot read {path}: {error.strerror}.", "Give the path of a readable file.")


def facts_of(error: Exception) -> dict[str, Any]:
    """What `--json` tells of an expected failure, of the command line, the core or the store."""
    problems = _problems_of(error)
    return {
        "message": getattr(error, "message", str(error)),
        "remedy": getattr(error, "remedy", ""),
        "code": getattr(error, "code", None),
        "param": problems[0].get("param") if problems else None,
        "problems": problems,
    }


def _problems_of(error: Exception) -> list[dict[str, Any]]:
    """Its problems, each with the file that it is in where the error is of a data file."""
    file = {"file": error.filename} if isinstance(error, DataError) else {}
    return [
        (dict(each) if isinstance(each, Mapping) else dataclasses.asdict(each)) | file
        for each in getattr(error, "problems", ())
    ]
