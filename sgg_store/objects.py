"""Where bytes lie: the object-store protocol and the layout of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sgg_store.attempts import Lease
from sgg_store.errors import InvalidObjectKeyError, ObjectStoreUrlError

Source = bytes | Path | BinaryIO

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_MAX_KEY_CHARS = 900


class ObjectStore(Protocol):
    """Named sequences of bytes. An object is there completely or not at all; keys never come from a caller."""

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        """Store an object, durably once this returns.

        Raises ObjectExistsError if `create_only` and the key is taken, StorageFullError without leaving anything.
        """

    def open(self, key: str) -> Iterator[bytes]:
        """The object's bytes in chunks. Raises ObjectNotFoundError at once, not at the first chunk."""

    def size(self, key: str) -> int:
        """The object's length in bytes. Raises ObjectNotFoundError."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to a local file, which appears complete or not at all.

        Raises ObjectNotFoundError, or StorageFullError without leaving anything.
        """

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def delete(self, key: str) -> None:
        """Remove the object; does nothing if it is not there."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys of all objects under a folder `prefix` (or ``""`` for all), sorted."""


def open_object_store(url: str) -> ObjectStore:
    """The object store at `url`: a directory's path or a file:// address. Raises ObjectStoreUrlError for others."""
    from sgg_store.local_objects import LocalObjectStore

    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        path = Path(url2pathname(parts.path) if parts.scheme else url).expanduser()
        if path.is_absolute():
            return LocalObjectStore(path)
    raise ObjectStoreUrlError(
        f"{url!r} is not an object store.", "Set SGG_OBJECT_STORE_URL to an absolute path or a file:/// address."
    )


def check_key(key: str) -> str:
    """Give `key` back if it is made of plain segments; raise InvalidObjectKeyError otherwise."""
    if len(key) > _MAX_KEY_CHARS or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise InvalidObjectKeyError(
            f"{key!r} is not an object key.", "Make keys with the layout functions of sgg_store.objects."
        )
    return key


def file_key(file_id: str) -> str:
    """Key of an uploaded file or a result file."""
    return check_key(f"files/{file_id}")


def attempt_prefix(lease: Lease) -> str:
    """Folder of everything that one attempt stores. The token keeps a zombie's objects apart from its successor's."""
    return check_key(f"jobs/{lease.job_id}/attempts/{lease.attempt}-{lease.token}")


def checkpoint_prefix(lease: Lease, step: int) -> str:
    """Folder of one checkpoint's files."""
    return f"{attempt_prefix(lease)}/checkpoints/step-{step:08d}"


def result_key(lease: Lease, name: str) -> str:
    """Key of a result of this attempt."""
    return check_key(f"{attempt_prefix(lease)}/results/{name}")
