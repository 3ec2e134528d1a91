"""The local object store: complete or not at all, created once, and never outside its directory."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgg_store.attempts import Lease
from sgg_store.errors import (
    InvalidObjectKeyError,
    ObjectStoreUrlError,
    StorageFullError,
)
from sgg_store.local_objects import LocalObjectStore
from sgg_store.objects import (
    attempt_prefix,
    checkpoint_prefix,
    file_key,
    open_object_store,
    result_key,
)

LEASE = Lease("ftjob-1", "proj-1", 2, "abc", "w")


def content(objects: LocalObjectStore, key: str) -> bytes:
    return b"".join(objects.open(key))


def everything_on_disk(objects: LocalObjectStore) -> list[Path]:
    return [path for path in objects.root.rglob("*") if path.is_file()]


def test_a_stream_that_was_opened_goes_on_after_a_delete(objects: LocalObjectStore) -> None:
    objects.put("key", b"x" * 3_000_000)
    stream = objects.open("key")
    next(stream)
    objects.delete("key")
    assert sum(map(len, stream)) == 3_000_000 - (1 << 20)
    assert not objects.exists("key")


def test_files_that_others_put_there_are_not_listed(objects: LocalObjectStore) -> None:
    objects.put("files/file-1", b"")
    for name in (".nfs0000001", ".DS_Store", "file-1~", "a name", "\udcff"):
        (objects.root / "files" / name).write_bytes(b"")
    assert (
        [found.key for found in objects.list("")] == [found.key for found in objects.list("files")] == ["files/file-1"]
    )


def test_a_directory_that_cannot_be_made_is_told_with_the_variable_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "objects", Path("/proc/objects")):
        with pytest.raises(ObjectStoreUrlError, match="Set SGG_OBJECT_STORE_URL") as refused:
            open_object_store(str(place))
        assert str(place) in refused.value.message


def test_the_layout_keeps_attempts_apart() -> None:
    assert file_key("file-1") == "files/file-1"
    assert attempt_prefix(LEASE) == "jobs/ftjob-1/attempts/2-abc"
    assert checkpoint_prefix(LEASE, "step-00000012") == "jobs/ftjob-1/attempts/2-abc/checkpoints/step-00000012"
    assert result_key(LEASE, "adapter.tar.gz") == "jobs/ftjob-1/attempts/2-abc/results/adapter.tar.gz"
    with pytest.raises(InvalidObjectKeyError):
        file_key("../file-1")


@pytest.fixture
def little_space() -> Iterator[int]:
    """No file may grow beyond 1 MB: writes fail as they do on a full disk, with another errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield 1_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_failed_write_leaves_nothing(objects: LocalObjectStore, tmp_path: Path, little_space: int) -> None:
    with pytest.raises(StorageFullError, match="Free some space"):
        objects.put("key", io.BytesIO(b"x" * (little_space * 2)))
    assert everything_on_disk(objects) == []
    assert not objects.exists("key")


class FullDisk(io.BytesIO):
    """A stream whose second chunk meets a full disk."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 0:
            raise OSError(28, os.strerror(28))
        return super().read(size)


def test_a_full_disk_has_a_name_and_leaves_nothing(objects: LocalObjectStore) -> None:
    with pytest.raises(StorageFullError, match="Free some space"):
        objects.put("key", FullDisk(b"x" * 3_000_000))
    assert everything_on_disk(objects) == []


def test_a_killed_writer_leaves_no_object_and_its_remains_are_swept_later(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from sgg_store.local_objects import LocalObjectStore\n"
        "class Killer:\n"
        "    def read(self, size): os.kill(os.getpid(), 9)\n"
        "LocalObjectStore(Path(sys.argv[1])).put('key', Killer())"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -signal.SIGKILL
    objects = LocalObjectStore(tmp_path)
    assert not objects.exists("key")
    assert list(objects.list("")) == []
    (part,) = everything_on_disk(objects)
    os.utime(part, (time.time() - 2 * 86_400,) * 2)
    LocalObjectStore(tmp_path)
    assert everything_on_disk(objects) == []


def test_addresses_are_absolute_paths_or_file_addresses(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a b"), (tmp_path / "a b").as_uri()):
        store = open_object_store(url)
        assert isinstance(store, LocalObjectStore)
        assert store.root == tmp_path / "a b"
    for url in ("relative/path", "ftp://host/x", "", "file://", "s3://", "s3:///prefix"):
        with pytest.raises(ObjectStoreUrlError, match="SGG_OBJECT_STORE_URL"):
            open_object_store(url)


def test_a_store_is_opened_while_another_one_writes(tmp_path: Path) -> None:
    writing = LocalObjectStore(tmp_path)
    over = threading.Event()

    def write() -> None:
        for number in range(500):
            writing.put(f"files/{number}", b"x")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():  # a part that is listed may be gone when it is looked at
        LocalObjectStore(tmp_path)
    writer.join()
    assert len(everything_on_disk(writing)) == 500
