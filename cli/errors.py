"""What the command line reports as one line and an exit code instead of a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class CliError(Exception):
    """An expected failure: what happened, what to do about it, and the exit code of the process."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


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
