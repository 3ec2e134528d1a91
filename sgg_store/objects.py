"""Where bytes lie: the object-store protocol and the layout of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sgg_store.attempts import Lease
from sgg_store.errors import InvalidObjectKeyError, ObjectExistsError, ObjectNotFoundError, ObjectStoreUrlError

Source = bytes | Path | BinaryIO

CHUNK_BYTES = 1 << 20
"""Objects are read in pieces of at most this size."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_MAX_KEY_CHARS = 900


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a list tells of an object. `modified_at` is in Unix seconds on the store's clock."""

    key: str
    bytes: int
    modified_at: float


class ObjectStore(Protocol):
    """Named sequences of bytes. An object is there completely or not at all; keys never come from a caller.

    Every method raises ObjectStoreUnavailableError if the store does not answer, or refuses the credentials.
    """

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

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects under a folder `prefix` (or ``""`` for all), in any order.

        What has a name that is no key is none of ours (an editor's backup, a file system's own files) and left out.
        """

    def link(self, key: str) -> str | None:
        """An address from which anyone can read the object for a while; None if this store gives none."""


def open_object_store(url: str) -> ObjectStore:
    """The object store at `url`: a directory's path, a file:// address, or `s3://bucket/prefix`.

    What S3 needs besides is in the environment, see S3Settings. Raises ObjectStoreUrlError.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc and not parts.query:
        return _open_s3(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("", "file"):
        path = Path(url2pathname(parts.path) if parts.scheme else url).expanduser()
        if path.is_absolute():
            from sgg_store.local_objects import LocalObjectStore

            return LocalObjectStore(path)
    raise ObjectStoreUrlError(
        f"{url!r} is not an object store.",
        "Set SGG_OBJECT_STORE_URL to an absolute path, a file:/// address, or s3://bucket/prefix.",
    )


def _open_s3(bucket: str, prefix: str) -> ObjectStore:
    from sgg_store.settings import S3Settings

    try:
        from sgg_store.s3_objects import S3ObjectStore
    except ImportError as error:
        raise ObjectStoreUrlError(
            "This environment cannot use S3: the package obstore is missing.",
            "From a checkout, run `pip install '.[s3]'`.",
        ) from error
    return S3ObjectStore(bucket, check_key(prefix) if prefix else "", S3Settings())


def taken(key: str) -> ObjectExistsError:
    """The error of a create-only put that came second."""
    return ObjectExistsError(f"There is an object {key!r} already.", "Objects never change; store it under a new key.")


def missing(key: str) -> ObjectNotFoundError:
    """The error of a read that finds nothing."""
    return ObjectNotFoundError(f"There is no object {key!r}.", "It was deleted, or its upload never ended.")


def is_key(key: str) -> bool:
    """Whether `key` is made of plain segments."""
    return len(key) <= _MAX_KEY_CHARS and all(_SEGMENT.fullmatch(segment) for segment in key.split("/"))


def check_key(key: str) -> str:
    """Give `key` back if it is made of plain segments; raise InvalidObjectKeyError otherwise."""
    if not is_key(key):
        raise InvalidObjectKeyError(
            f"{key!r} is not an object key.", "Make keys with the layout functions of sgg_store.objects."
        )
    return key


def file_key(file_id: str) -> str:
    """Key of an uploaded file or a result file."""
    return check_key(f"files/{file_id}")


def job_prefix(job_id: str) -> str:
    """Folder of everything that a job's attempts store."""
    return check_key(f"jobs/{job_id}")


def upload_part_key(upload_id: str, part_id: str) -> str:
    """Key of one part of an upload."""
    return check_key(f"uploads/{upload_id}/{part_id}")


def attempt_prefix(lease: Lease) -> str:
    """Folder of everything that one attempt stores. The token keeps a zombie's objects apart from its successor's."""
    return check_key(f"{job_prefix(lease.job_id)}/attempts/{lease.attempt}-{lease.token}")


def checkpoint_prefix(lease: Lease, name: str) -> str:
    """Folder of the files of one checkpoint."""
    return check_key(f"{attempt_prefix(lease)}/checkpoints/{name}")


def result_key(lease: Lease, name: str) -> str:
    """Key of a result of this attempt."""
    return check_key(f"{attempt_prefix(lease)}/results/{name}")


def report_key(lease: Lease, name: str) -> str:
    """Key of a part of the report on what this attempt made."""
    return check_key(f"{attempt_prefix(lease)}/report/{name}")
