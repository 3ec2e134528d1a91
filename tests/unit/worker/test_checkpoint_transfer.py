import json
from pathlib import Path

import pytest

from sgg_core.errors import CheckpointError
from sgg_store.attempts import Lease
from sgg_store.local_objects import LocalObjectStore
from sgg_store.records import CheckpointRecord
from worker.checkpoint_transfer import download_checkpoint, upload_checkpoint

LEASE = Lease("ftjob-1", "proj-1", 1, "token", "me")


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


@pytest.fixture
def stored(tmp_path: Path, objects: LocalObjectStore) -> CheckpointRecord:
    directory = tmp_path / "step-00000012"
    directory.mkdir()
    (directory / "state.json").write_bytes(b"{}")
    (directory / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    prefix, manifest = upload_checkpoint(objects, LEASE, "step-00000012", directory)
    return CheckpointRecord(step=12, object_prefix=prefix, manifest=manifest)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, objects: LocalObjectStore, stored: CheckpointRecord) -> None:
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "left over").touch()
    directory = download_checkpoint(objects, stored, tmp_path / "resume")
    assert sorted(path.name for path in directory.iterdir()) == ["adapter_model.safetensors", "state.json"]
    assert (directory / "adapter_model.safetensors").read_bytes() == b"weights" * 1000


def test_the_manifest_is_stored_beside_the_files(objects: LocalObjectStore, stored: CheckpointRecord) -> None:
    manifest = json.loads(b"".join(objects.open(f"{stored.object_prefix}/manifest.json")))
    assert manifest == stored.manifest
    assert manifest["state.json"]["bytes"] == 2 and len(manifest["state.json"]["sha256"]) == 64


def test_one_flipped_byte_is_noticed(tmp_path: Path, objects: LocalObjectStore, stored: CheckpointRecord) -> None:
    content = b"Weights" + b"weights" * 999
    objects.put(f"{stored.object_prefix}/adapter_model.safetensors", content, create_only=False)
    with pytest.raises(CheckpointError, match=r"step 12 is damaged: adapter_model\.safetensors"):
        download_checkpoint(objects, stored, tmp_path / "resume")


def test_a_missing_file_is_noticed(tmp_path: Path, objects: LocalObjectStore, stored: CheckpointRecord) -> None:
    objects.delete(f"{stored.object_prefix}/state.json")
    with pytest.raises(CheckpointError, match=r"lost state\.json"):
        download_checkpoint(objects, stored, tmp_path / "resume")
