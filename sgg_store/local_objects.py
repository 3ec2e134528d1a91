"""Objects in a local directory: written beside, fsynced, then linked into place."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from sgg_core.errors import NO_SPACE
from sgg_core.files import fsync
from sgg_store.errors import ObjectStoreUrlError
from sgg_store.objects import CHUNK_BYTES, Source, StoredObject, check_key, is_key, missing, taken
from sgg_store.partial_files import removed_on_failure

_ABANDONED_SECONDS = 24 * 3600.0
_PLACING_ATTEMPTS = 10


class LocalObjectStore:
    """An ObjectStore in a directory of one file system. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        """Make the directory if there is none. Raises ObjectStoreUrlError if that cannot be."""
        self.root = root
        self._parts = root / ".parts"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            left = list(self._parts.iterdir())
        except OSError as error:
            raise ObjectStoreUrlError(
                f"{root} cannot be the object store's directory: {error.strerror or error}.",
                "Free space there, or set SGG_OBJECT_STORE_URL to a directory on another disk."
                if error.errno in NO_SPACE
                else "Set SGG_OBJECT_STORE_URL to a directory that this user may make or write to.",
            ) from error
        for part in left:  # by killed processes
            with suppress(FileNotFoundError):  # somebody else's, who is done with it by now
                if part.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    part.unlink()

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        """See ObjectStore.put."""
        target = self._path(key)
        if create_only and target.exists():
            raise taken(key)
        part = self._parts / uuid.uuid4().hex
        with removed_on_failure(part):
            _write(part, source)
            self._place(part, key, create_only)
            part.unlink(missing_ok=True)

    def open(self, key: str) -> Iterator[bytes]:
        """See ObjectStore.open. The file closes when the iterator ends or is dropped."""
        try:
            stream = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise missing(key) from None
        return _chunks(stream)

    def size(self, key: str) -> int:
        """See ObjectStore.size."""
        path = self._path(key)
        if not path.is_file():
            raise missing(key)
        return path.stat().st_size

    def download(self, key: str, path: Path) -> None:
        """See ObjectStore.download."""
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with removed_on_failure(part):
            try:
                shutil.copyfile(self._path(key), part)
            except (FileNotFoundError, IsADirectoryError):
                raise missing(key) from None
            part.replace(path)

    def exists(self, key: str) -> bool:
        """See ObjectStore.exists."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """See ObjectStore.delete."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a directory that holds something, or has gone
            for directory in path.parents:
                if directory == self.root:
                    break
                directory.rmdir()

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See ObjectStore.list."""
        folder = self._path(prefix.rstrip("/")) if prefix else self.root
        for key in self._keys_under(folder):
            try:
                facts = (self.root / key).stat()
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield StoredObject(key, facts.st_size, facts.st_mtime)

    def link(self, key: str) -> str | None:
        """See ObjectStore.link. A directory has no addresses that others could reach."""
        return None

    def _place(self, part: Path, key: str, create_only: bool) -> None:
        """Give `part` its place, in a directory that may go at any time with the last object in it."""
        target = self._path(key)
        for attempt in range(_PLACING_ATTEMPTS):
            _make_directories(target.parent, self.root)
            try:
                os.link(part, target) if create_only else part.replace(target)
                break
            except FileExistsError:
                raise taken(key) from None
            except FileNotFoundError:  # then not all of its directories were there
                if attempt == _PLACING_ATTEMPTS - 1:
                    raise
        with suppress(FileNotFoundError):  # somebody has deleted the object, and so its directory
            fsync(target.parent)

    def _keys_under(self, folder: Path) -> Iterator[str]:
        for directory, _, names in os.walk(folder):  # which passes over directories that go meanwhile
            for name in names:
                key = Path(directory, name).relative_to(self.root).as_posix()
                if is_key(key):  # which what lies in `_parts` has not
                    yield key

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


def _write(part: Path, source: Source) -> None:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            _copy(stream, part)
    else:
        _copy(BytesIO(source) if isinstance(source, bytes) else source, part)


def _copy(stream: BinaryIO, part: Path) -> None:
    with part.open("xb") as target:
        shutil.copyfileobj(stream, target, CHUNK_BYTES)
        target.flush()
        os.fsync(target.fileno())


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _make_directories(directory: Path, root: Path) -> None:
    """Make `directory` and its parents below `root`, each entry durable in the directory that holds it."""
    if not directory.is_dir():
        _make_directories(directory.parent, root)
        with suppress(FileExistsError, FileNotFoundError):  # made, or its parent removed, by somebody else meanwhile
            directory.mkdir()
            fsync(directory.parent)
