"""The data files that a command is given, read and checked: what is wrong with all of them is told at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.errors import SeveralFilesError
from sgg_core.errors import DataError

if TYPE_CHECKING:
    from sgg_core.examples import ExampleSet

Found = TypeVar("Found")


class DataFiles:
    """Reads and checks files. What is wrong with one keeps the others from nothing: `refuse` tells it in the end."""

    def __init__(self) -> None:
        self._errors: list[DataError] = []

    def read(self, path: Path) -> ExampleSet | None:
        """The examples of a file, or nothing where it cannot be used."""
        from sgg_core.examples import read_examples

        return self._attempt(lambda: read_examples(path))

    def check(self, check: Callable[..., None], *arguments: Any) -> None:
        """Call a check of files that were read, and note what it refuses."""
        self._attempt(lambda: check(*arguments))

    def refuse(self) -> None:
        """Raise DataError, or SeveralFilesError, if anything was wrong."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise SeveralFilesError(self._errors)

    def _attempt(self, work: Callable[[], Found]) -> Found | None:
        try:
            return work()
        except DataError as error:
            self._errors.append(error)
            return None
