"""Checkpoints between the trainer's disk and the object store, with their sizes and sha256."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sgg_core.errors import CheckpointError
from sgg_core.files import sha256_of
from sgg_store.attempts import Lease
from sgg_store.errors import ObjectNotFoundError
from sgg_store.failpoints import Failpoint, reach
from sgg_store.objects import ObjectStore, checkpoint_prefix
from sgg_store.records import CheckpointRecord
from worker.fetching import fetched_whole

MANIFEST = "manifest.json"

Manifest = dict[str, dict[str, Any]]


def upload_checkpoint(objects: ObjectStore, lease: Lease, name: str, directory: Path) -> tuple[str, Manifest]:
    """Store the files of a checkpoint of this name and then, as the sign that all are there, their manifest.

    Gives the folder of the objects and the manifest: file name -> {"bytes", "sha256"}.
    Raises StorageFullError; what was stored by then is garbage that no row points to.
    """
    prefix = checkpoint_prefix(lease, name)
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
    for path in paths:
        objects.put(f"{prefix}/{path.name}", path)
    reach(Failpoint.CHECKPOINT_HALF_STORED)
    objects.put(f"{prefix}/{MANIFEST}", json.dumps(manifest, sort_keys=True).encode())
    reach(Failpoint.CHECKPOINT_STORED)
    return prefix, manifest


def download_checkpoint(objects: ObjectStore, checkpoint: CheckpointRecord, directory: Path) -> Path:
    """Fetch a checkpoint into `directory`, which is made anew. Raises CheckpointError if it is not what was stored."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, facts in checkpoint.manifest.items():
        try:
            whole = fetched_whole(objects, f"{checkpoint.object_prefix}/{name}", directory / name, facts["sha256"])
        except ObjectNotFoundError as error:
            raise CheckpointError(f"The checkpoint of step {checkpoint.step} has lost {name}.") from error
        if not whole:
            raise CheckpointError(f"The checkpoint of step {checkpoint.step} is damaged: {name} has changed.")
    return directory
