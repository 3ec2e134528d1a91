"""What jobs rest on, asked of a store before anything is trusted to it."""

from __future__ import annotations

import uuid
from contextlib import suppress

from sgg_store.errors import ObjectExistsError, StoreError, UnsafeObjectStoreError
from sgg_store.objects import ObjectStore, open_object_store

_REMEDY = (
    "Use a directory on a file system with hard links, or an S3 server that honours If-None-Match, such as "
    "SeaweedFS 4.48 or newer."
)


def open_probed_object_store(url: str) -> ObjectStore:
    """Open the store at `url` and probe it. Raises what `open_object_store` and `probe_object_store` raise."""
    objects = open_object_store(url)
    probe_object_store(objects)
    return objects


def probe_object_store(objects: ObjectStore) -> None:
    """Make sure that the store gives back what was put, and that a create-only put never replaces an object.

    Raises UnsafeObjectStoreError, or ObjectStoreUnavailableError if the store does not answer.
    """
    key = f"health/{uuid.uuid4().hex}"
    try:
        objects.put(key, b"first")
        with suppress(ObjectExistsError):
            objects.put(key, b"second")
            raise UnsafeObjectStoreError("The object store ignores conditional puts: it replaced an object.", _REMEDY)
        if b"".join(objects.open(key)) != b"first":
            raise UnsafeObjectStoreError("The object store does not return what was stored in it.", _REMEDY)
    except OSError as error:  # a file system without hard links, or without the right to write
        raise UnsafeObjectStoreError(f"The object store's directory cannot be used: {error}.", _REMEDY) from error
    finally:
        with suppress(StoreError, OSError):
            objects.delete(key)
