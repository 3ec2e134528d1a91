"""Bytes from the object store on the worker's disk, as they were stored or not at all."""

from __future__ import annotations

from pathlib import Path

from sgg_core.files import sha256_of
from sgg_store.objects import ObjectStore


def fetched_whole(objects: ObjectStore, key: str, path: Path, sha256: str) -> bool:
    """Download an object to `path`. Says whether it is the one that was stored.

    Raises ObjectNotFoundError, or StorageFullError without leaving anything.
    """
    objects.download(key, path)
    return sha256_of(path) == sha256
