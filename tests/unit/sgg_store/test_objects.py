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
    ObjectExistsError,
    ObjectNotFoundError,
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


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_an_object_comes_back_as_it_was_put(objects: LocalObjectStore, tmp_path: Path, size: int, kind: str) -> None:
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    source = {"bytes": data, "path": tmp_path / "source", "stream": io.BytesIO(data)}[kind]
    objects.put("a/b/c.bin", source)
    assert content(objects, "a/b/c.bin") == data
    assert all(len(chunk) <= 1 << 20 for chunk in objects.open("a/b/c.bin"))
    assert objects.size("a/b/c.bin") == size
    assert objects.exists("a/b/c.bin")
    objects.download("a/b/c.bin", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


def test_an_object_is_created_once(objects: LocalObjectStore) -> None:
    objects.put("key", b"first")
    with pytest.raises(ObjectExistsError):
        objects.put("key", b"second")
    assert content(objects, "key") == b"first"
    objects.put("key", b"third", create_only=False)
    assert content(objects, "key") == b"third"
    assert len(everything_on_disk(objects)) == 1


def test_of_many_writers_at_the_same_moment_one_wins(objects: LocalObjectStore) -> None:
    barrier = threading.Barrier(6)
    won: list[bytes] = []

    def put(data: bytes) -> None:
        barrier.wait()
        try:
            objects.put("deep/new/folder/key", data)
        except ObjectExistsError:
            return
        won.append(data)

    threads = [threading.Thread(target=put, args=(bytes([index]) * 100_000,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [content(objects, "deep/new/folder/key")]
    assert len(everything_on_disk(objects)) == 1


def test_missing_objects_are_told_at_once(objects: LocalObjectStore, tmp_path: Path) -> None:
    objects.put("folder/key", b"")
    for key in ("nothing", "folder"):
        assert not objects.exists(key)
        with pytest.raises(ObjectNotFoundError):
            objects.open(key)
        with pytest.raises(ObjectNotFoundError):
            objects.size(key)
        with pytest.raises(ObjectNotFoundError):
            objects.download(key, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    objects.delete("nothing")


def test_a_stream_that_was_opened_goes_on_after_a_delete(objects: LocalObjectStore) -> None:
    objects.put("key", b"x" * 3_000_000)
    stream = objects.open("key")
    next(stream)
    objects.delete("key")
    assert sum(map(len, stream)) == 3_000_000 - (1 << 20)
    assert not objects.exists("key")


def test_lists_give_sorted_keys_under_a_folder(objects: LocalObjectStore) -> None:
    for key in ("jobs/2/x", "jobs/1/z", "jobs/1/a/b", "jobs/10/x", "files/1"):
        objects.put(key, b"")
    assert list(objects.list("jobs/1")) == ["jobs/1/a/b", "jobs/1/z"]
    assert list(objects.list("jobs/1/")) == ["jobs/1/a/b", "jobs/1/z"]
    assert list(objects.list("")) == ["files/1", "jobs/1/a/b", "jobs/1/z", "jobs/10/x", "jobs/2/x"]
    assert list(objects.list("nothing")) == []


OUTSIDE = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/.", ".parts/x", "a\\b", "a\0b", "ä", "a b"]


@pytest.mark.parametrize("key", [*OUTSIDE, "a\n", "x" * 201, "/".join(["abcd"] * 200)])
def test_keys_lead_nowhere_else(objects: LocalObjectStore, tmp_path: Path, key: str) -> None:
    actions = (
        lambda: objects.put(key, b"x"),
        lambda: objects.open(key),
        lambda: objects.size(key),
        lambda: objects.exists(key),
        lambda: objects.delete(key),
        lambda: objects.download(key, tmp_path / "target"),
    )
    for action in actions:
        with pytest.raises(InvalidObjectKeyError):
            action()


def test_the_layout_keeps_attempts_apart() -> None:
    assert file_key("file-1") == "files/file-1"
    assert attempt_prefix(LEASE) == "jobs/ftjob-1/attempts/2-abc"
    assert checkpoint_prefix(LEASE, 12) == "jobs/ftjob-1/attempts/2-abc/checkpoints/step-00000012"
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
    for url in ("relative/path", "ftp://host/x", "", "file://"):
        with pytest.raises(ObjectStoreUrlError, match="SGG_OBJECT_STORE_URL"):
            open_object_store(url)
