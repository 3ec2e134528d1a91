"""Objects in a bucket of S3, or of any server that speaks its protocol and honours conditional writes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store

from sgg_store.errors import ObjectStoreUnavailableError
from sgg_store.objects import CHUNK_BYTES, Source, StoredObject, check_key, is_key, missing, taken
from sgg_store.partial_files import removed_on_failure
from sgg_store.settings import S3Settings

SINGLE_REQUEST_BYTES = 16 << 20  # larger bodies are sent in parts
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_PARTS = "_parts"
_PAUSES = (0.1, 0.3, 1.0, 3.0)  # seconds between the tries of a create-only write


class S3ObjectStore:
    """An ObjectStore in a bucket, under `prefix`. Safe to share between threads and processes.

    A large create-only object is sent in parts to a key of its own and then copied into place on the server, since
    only the copy can be made to fail if the key is taken.
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        self._where = f"s3://{bucket}/{prefix}"
        self._link_seconds = settings.link_seconds
        retries: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=15)}
        self._store = _open(bucket, prefix, settings, settings.endpoint, retries)
        self._unrepeated = _open(bucket, prefix, settings, settings.endpoint, {"max_retries": 0})
        self._public: S3Store | None = None
        if settings.public_endpoint != "none":
            self._public = _open(bucket, prefix, settings, settings.public_endpoint or settings.endpoint, retries)

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        """See ObjectStore.put."""
        check_key(key)
        with _stream_of(source) as stream:
            head = stream.read(SINGLE_REQUEST_BYTES + 1)
            if len(head) > SINGLE_REQUEST_BYTES:
                self._put_large(key, chain((head,), iter(lambda: stream.read(CHUNK_BYTES), b"")), create_only)
            elif create_only:
                self._create(
                    key, len(head), lambda: obstore.put(self._unrepeated, key, head, mode="create", use_multipart=False)
                )
            else:
                with self._named_errors():
                    obstore.put(self._store, key, head, use_multipart=False)

    def open(self, key: str) -> Iterator[bytes]:
        """See ObjectStore.open."""
        return self._chunks(self._get(key))

    def size(self, key: str) -> int:
        """See ObjectStore.size."""
        check_key(key)
        with self._named_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def download(self, key: str, path: Path) -> None:
        """See ObjectStore.download."""
        chunks = self.open(key)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with removed_on_failure(part):
            with part.open("xb") as target:
                for chunk in chunks:
                    target.write(chunk)
            part.replace(path)

    def exists(self, key: str) -> bool:
        """See ObjectStore.exists."""
        check_key(key)
        with self._named_errors():
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
        return True

    def delete(self, key: str) -> None:
        """See ObjectStore.delete."""
        check_key(key)
        with self._named_errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See ObjectStore.list."""
        folder = check_key(prefix.rstrip("/")) if prefix else None
        with self._named_errors():
            for page in obstore.list(self._store, folder, chunk_size=1000):
                for facts in page:
                    if is_key(key := str(facts["path"])):
                        yield StoredObject(key, int(facts["size"]), facts["last_modified"].timestamp())

    def link(self, key: str) -> str | None:
        """See ObjectStore.link."""
        check_key(key)
        if self._public is None:
            return None
        with self._named_errors():
            return str(obstore.sign(self._public, "GET", key, timedelta(seconds=self._link_seconds)))

    def _put_large(self, key: str, chunks: Iterator[bytes], create_only: bool) -> None:
        if create_only and self.exists(key):
            raise taken(key)
        target = f"{_PARTS}/{uuid.uuid4().hex}" if create_only else key
        try:
            with self._named_errors():
                obstore.put(self._store, target, chunks, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            if create_only:
                size = self.size(target)
                self._create(key, size, lambda: obstore.copy(self._unrepeated, target, key, overwrite=False))
        finally:
            if create_only:
                with suppress(ObjectStoreUnavailableError):  # the garbage collector finds what stays behind
                    self.delete(target)

    def _create(self, key: str, size: int, write: Callable[[], object]) -> None:
        """Write, and try again while no answer comes.

        Each key has one writer, so an object of this size that appears after a lost answer is what this one wrote.
        """
        answer_lost = False
        for pause in (*_PAUSES, None):
            try:
                with self._named_errors():
                    write()
                    return
            except AlreadyExistsError:
                if answer_lost and self.size(key) == size:
                    return
                raise taken(key) from None
            except ObjectStoreUnavailableError as error:
                if pause is None or not isinstance(error.__cause__, GenericError):
                    raise
                answer_lost = True
                time.sleep(pause)

    def _get(self, key: str) -> Any:
        check_key(key)
        with self._named_errors(key):
            return obstore.get(self._store, key)

    def _chunks(self, result: Any) -> Iterator[bytes]:
        with self._named_errors():
            for piece in result.stream(min_chunk_size=CHUNK_BYTES):
                view = memoryview(piece)
                for start in range(0, len(view), CHUNK_BYTES):
                    yield bytes(view[start : start + CHUNK_BYTES])

    @contextmanager
    def _named_errors(self, key: str | None = None) -> Iterator[None]:
        """Turn the library's errors into the store's own. With `key`, "not found" speaks of this object."""
        try:
            yield
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if key is not None:
                raise missing(key) from error
            raise ObjectStoreUnavailableError(
                f"There is no bucket for {self._where}.", "Create it, or correct SGG_OBJECT_STORE_URL."
            ) from error
        except BaseError as error:
            raise ObjectStoreUnavailableError(
                f"The object store {self._where} refused a request: {_first_line(error)}",
                "Check that it runs, and the variables SGG_S3_ENDPOINT, SGG_S3_ACCESS_KEY_ID, "
                "SGG_S3_SECRET_ACCESS_KEY and SGG_S3_REGION.",
            ) from error


def _open(bucket: str, prefix: str, settings: S3Settings, endpoint: str | None, retries: Any) -> S3Store:
    options: dict[str, Any] = {
        "region": settings.region,
        "virtual_hosted_style_request": not settings.path_style,
        "copy_if_not_exists": "multipart",
    }
    if endpoint is not None:
        options["endpoint"] = endpoint.rstrip("/")
    if settings.access_key_id is not None:
        options["access_key_id"] = settings.access_key_id
    if settings.secret_access_key is not None:
        options["secret_access_key"] = settings.secret_access_key.get_secret_value()
    client: Any = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=3),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(minutes=10),
    }
    return S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=retries, **options)


@contextmanager
def _stream_of(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            yield stream
    else:
        yield BytesIO(source) if isinstance(source, bytes) else source


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
