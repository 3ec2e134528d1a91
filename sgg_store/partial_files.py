"""Files that appear complete or not at all: written beside their place, and gone if the writing fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgg_core.errors import NO_SPACE
from sgg_store.errors import StorageFullError


@contextmanager
def removed_on_failure(part: Path) -> Iterator[None]:
    """Remove `part` if the block raises. A full disk is raised as StorageFullError."""
    try:
        yield
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise StorageFullError(
                f"No space is left on the disk that holds {part.parent}.", "Free some space, then try again."
            ) from error
        raise
