"""Local directories of running attempts. Each worker has its own, and removes those of workers that are gone."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sgg_core.files import exclusive
from sgg_store.attempts import Lease


class Scratch:
    """A worker's part of the scratch directory, held by an advisory lock that the kernel drops when the worker dies."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / "lock"):  # nobody may look at a directory whose owner is about to lock it
            for abandoned in root.glob("worker-*"):
                _remove_unless_held(abandoned)
            self._directory = Path(tempfile.mkdtemp(prefix="worker-", dir=root))
            self._lock = (self._directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def attempt(self, lease: Lease) -> Iterator[Path]:
        """An empty directory for one attempt, removed at the end."""
        directory = self._directory / f"{lease.job_id}-{lease.attempt}-{lease.token}"
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def directory(self, name: str) -> Path:
        """An empty directory that stays until `close`."""
        directory = self._directory / name
        directory.mkdir()
        return directory

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._lock.close()


def _remove_unless_held(directory: Path) -> None:
    try:
        lock: IO[str] = (directory / "lock").open("r+")
    except OSError:  # just being removed by its owner
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(directory, ignore_errors=True)
