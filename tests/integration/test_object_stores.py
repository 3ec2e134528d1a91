"""What every object store does, on a local directory and on S3: complete or not at all, created once."""

from __future__ import annotations

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sgg_store.errors import (
    InvalidObjectKeyError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    UnsafeObjectStoreError,
)
from sgg_store.local_objects import LocalObjectStore
from sgg_store.object_probe import probe_object_store
from sgg_store.objects import ObjectStore, Source, open_object_store
from tests.seaweedfs import SeaweedServer

LARGE = (16 << 20) + 1  # sent to S3 in parts


@pytest.fixture
def objects(each_store: ObjectStore) -> ObjectStore:
    return each_store


def content(objects: ObjectStore, key: str) -> bytes:
    return b"".join(objects.open(key))


def keys(objects: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(found.key for found in objects.list(prefix))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000, LARGE])
@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_an_object_comes_back_as_it_was_put(objects: ObjectStore, tmp_path: Path, size: int, kind: str) -> None:
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


def test_an_object_is_created_once(objects: ObjectStore) -> None:
    objects.put("key", b"first")
    with pytest.raises(ObjectExistsError):
        objects.put("key", b"second")
    assert content(objects, "key") == b"first"
    objects.put("key", b"third", create_only=False)
    assert content(objects, "key") == b"third"
    assert keys(objects) == ["key"]


def test_of_many_writers_at_the_same_moment_one_wins(objects: ObjectStore) -> None:
    size = 100_000  # of objects sent in parts, each key has one writer
    barrier = threading.Barrier(6)
    won: list[bytes] = []

    def put(data: bytes) -> None:
        barrier.wait()
        try:
            objects.put("deep/new/folder/key", data)
        except ObjectExistsError:
            return
        won.append(data)

    threads = [threading.Thread(target=put, args=(bytes([index]) * (size + index),)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [content(objects, "deep/new/folder/key")]
    assert keys(objects) == ["deep/new/folder/key"]


def test_missing_objects_are_told_at_once(objects: ObjectStore, tmp_path: Path) -> None:
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


def test_lists_give_the_keys_under_a_folder(objects: ObjectStore) -> None:
    for key in ("jobs/2/x", "jobs/1/z", "jobs/1/a/b", "jobs/10/x", "files/1"):
        objects.put(key, b"")
    assert keys(objects, "jobs/1") == ["jobs/1/a/b", "jobs/1/z"]
    assert keys(objects, "jobs/1/") == ["jobs/1/a/b", "jobs/1/z"]
    assert keys(objects, "") == ["files/1", "jobs/1/a/b", "jobs/1/z", "jobs/10/x", "jobs/2/x"]
    assert keys(objects, "nothing") == []


OUTSIDE = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/.", ".parts/x", "a\\b", "a\0b", "ä", "a b"]


@pytest.mark.parametrize("key", [*OUTSIDE, "a\n", "x" * 201, "/".join(["abcd"] * 200)])
def test_keys_lead_nowhere_else(objects: ObjectStore, tmp_path: Path, key: str) -> None:
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


def test_lists_tell_sizes_and_ages(objects: ObjectStore) -> None:
    before = time.time()
    objects.put("a/b", b"xyz")
    (found,) = objects.list("a")
    assert (found.key, found.bytes) == ("a/b", 3)
    assert before - 2 < found.modified_at < time.time() + 2


class BreakingSource(io.BytesIO):
    """A stream that breaks off near its end."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= LARGE:
            raise OSError(5, os.strerror(5))
        return super().read(size)


@pytest.mark.parametrize("create_only", [True, False])
def test_a_source_that_breaks_leaves_nothing(objects: ObjectStore, create_only: bool) -> None:
    with pytest.raises(Exception, match="Input/output error"):
        objects.put("key", BreakingSource(b"x" * (LARGE + (4 << 20))), create_only=create_only)
    assert keys(objects) == []


def test_a_large_object_is_replaced_only_when_that_is_asked_for(objects: ObjectStore) -> None:
    objects.put("key", b"a" * LARGE)
    with pytest.raises(ObjectExistsError):
        objects.put("key", b"b" * LARGE)
    assert content(objects, "key") == b"a" * LARGE
    objects.put("key", b"c" * LARGE, create_only=False)
    assert content(objects, "key") == b"c" * LARGE
    assert keys(objects) == ["key"]


def test_a_link_gives_the_bytes_to_anyone_and_cannot_be_changed(objects: ObjectStore) -> None:
    objects.put("files/file-1", b"first")
    objects.put("files/file-2", b"second")
    link = objects.link("files/file-1")
    if isinstance(objects, LocalObjectStore):
        assert link is None
        return
    assert link is not None
    assert httpx.get(link, trust_env=False).content == b"first"
    for changed in (link.replace("file-1", "file-2"), link.replace("Expires=900", "Expires=9000")):
        assert httpx.get(changed, trust_env=False).status_code == 403


def test_the_probe_accepts_these_stores_and_leaves_nothing(objects: ObjectStore) -> None:
    probe_object_store(objects)
    assert keys(objects) == []


class ReplacingStore(LocalObjectStore):
    """A store that does not know conditional puts."""

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        super().put(key, source, create_only=False)


class ForgetfulStore(LocalObjectStore):
    """A store that gives back something else."""

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        super().put(key, b"something else", create_only=create_only)


@pytest.mark.parametrize(
    ("kind", "said"), [(ReplacingStore, "ignores conditional puts"), (ForgetfulStore, "does not return")]
)
def test_the_probe_refuses_a_store_that_breaks_a_promise(
    tmp_path: Path, kind: type[LocalObjectStore], said: str
) -> None:
    with pytest.raises(UnsafeObjectStoreError, match=said) as refused:
        probe_object_store(kind(tmp_path))
    assert "SeaweedFS" in refused.value.remedy
    assert keys(LocalObjectStore(tmp_path)) == []


@pytest.mark.s3
def test_wrong_credentials_and_a_server_that_is_down_are_named(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SGG_S3_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ObjectStoreUnavailableError, match="SGG_S3_SECRET_ACCESS_KEY") as refused:
        open_object_store(s3_url).put("key", b"x")
    assert "wrong" not in str(refused.value)
    monkeypatch.setenv("SGG_S3_ENDPOINT", "http://127.0.0.1:1")
    down = open_object_store(s3_url)
    actions = (
        lambda: down.put("key", b"x"),
        lambda: down.open("key"),
        lambda: down.exists("key"),
        lambda: down.download("key", tmp_path / "target"),
        lambda: list(down.list("")),
    )
    for action in actions:
        with pytest.raises(ObjectStoreUnavailableError, match="SGG_S3_ENDPOINT"):
            action()


@pytest.mark.s3
def test_a_put_outlasts_a_short_outage(own_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in own_s3_server.environment.items():
        monkeypatch.setenv(name, value)
    objects = open_object_store("s3://sgg")
    objects.put("before", b"kept")
    own_s3_server.kill()
    starter = threading.Timer(0.5, own_s3_server.start)
    starter.start()
    for attempt in range(20):
        try:
            objects.put(f"during-{attempt}", b"x")
            break
        except ObjectStoreUnavailableError:
            continue
    starter.join()
    assert content(objects, "before") == b"kept"
    assert content(objects, f"during-{attempt}") == b"x"


@pytest.mark.s3
def test_a_link_is_good_for_its_time_only(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_S3_LINK_SECONDS", "2")
    objects = open_object_store(s3_url)
    objects.put("key", b"x")
    link = objects.link("key")
    assert link is not None and httpx.get(link, trust_env=False).content == b"x"
    time.sleep(3.5)  # its time is counted in full seconds
    assert httpx.get(link, trust_env=False).status_code == 403


@pytest.mark.s3
def test_without_public_address_there_are_no_links(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = open_object_store(s3_url)
    objects.put("key", b"x")
    monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", "none")
    assert open_object_store(s3_url).link("key") is None
    monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", "https://files.example.org")
    link = open_object_store(s3_url).link("key")
    assert link is not None and link.startswith("https://files.example.org/sgg/")


def test_a_local_store_keeps_no_empty_directories(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "objects")
    for key in ("a/b/1/file", "a/b/2/file", "a/c/file"):
        store.put(key, b"x")
    store.delete("a/b/1/file")
    assert sorted(path.name for path in (tmp_path / "objects/a/b").iterdir()) == ["2"]
    for key in ("a/b/2/file", "a/c/file", "a/b/2/file"):
        store.delete(key)
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [".parts"]


def test_objects_are_put_into_directories_that_go_meanwhile(tmp_path: Path) -> None:
    """Some put and delete, and so make and remove the one directory that all share."""
    store = LocalObjectStore(tmp_path / "objects")

    def work(number: int) -> None:
        for turn in range(100):
            key = f"deep/er/{number}-{turn}"
            store.put(key, b"x")
            assert b"".join(store.open(key)) == b"x"
            store.delete(key)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, number) for number in range(4)]
        while not all(each.done() for each in done):
            assert all(found.bytes == 1 for found in store.list("deep"))
        for each in done:
            each.result()
    assert list(store.list("")) == []
