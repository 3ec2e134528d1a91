import hashlib
from pathlib import Path

import pytest

from sgg_core.errors import CheckpointError
from sgg_core.spec import TaskSpec
from sgg_core.trials import TASK
from sgg_store.local_objects import LocalObjectStore
from sgg_store.trials import StoredAdapter, StoredFile
from worker.adapter_cache import AdapterCache

WEIGHTS = b"the same weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def stored(objects: LocalObjectStore, key: str, **task: object) -> StoredAdapter:
    objects.put(key, WEIGHTS)
    return StoredAdapter(files={"adapter_model.safetensors": StoredFile(key=key, sha256=SHA256)}, **task)  # type: ignore[arg-type]


def test_equal_weights_of_another_task_are_another_adapter(tmp_path: Path, objects: LocalObjectStore) -> None:
    cache = AdapterCache(tmp_path / "cache", objects)
    one = stored(objects, "files/one", description="first", max_tokens=64)
    other = stored(objects, "files/other", description="second", max_tokens=512)
    places = [cache.fetch(one), cache.fetch(other), cache.fetch(stored(objects, "files/third", max_tokens="auto"))]
    told = [TaskSpec.model_validate_json((place / TASK).read_bytes()) for place in places]
    assert [(task.description, task.max_tokens) for task in told] == [("first", 64), ("second", 512), (None, "auto")]


def test_an_adapter_is_fetched_once_wherever_it_lies(tmp_path: Path, objects: LocalObjectStore) -> None:
    cache = AdapterCache(tmp_path / "cache", objects)
    place = cache.fetch(stored(objects, "files/one"))
    assert (place / "adapter_model.safetensors").read_bytes() == WEIGHTS
    again = stored(objects, "files/other")
    objects.delete("files/other")
    assert cache.fetch(again) == place


def test_weights_that_have_changed_are_refused(tmp_path: Path, objects: LocalObjectStore) -> None:
    cache = AdapterCache(tmp_path / "cache", objects)
    adapter = stored(objects, "files/one")
    objects.put("files/one", b"others", create_only=False)
    with pytest.raises(CheckpointError, match="differs from what was stored"):
        cache.fetch(adapter)
    assert list((tmp_path / "cache").glob("*")) == []
