"""Adapters on this worker's disk: fetched from the object store once, checked, and unpacked."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections import OrderedDict
from pathlib import Path

from sgg_core.errors import CheckpointError
from sgg_core.files import whole_directory
from sgg_core.spec import TaskSpec
from sgg_core.trials import TASK
from sgg_store.objects import ObjectStore
from sgg_store.trials import StoredAdapter
from worker.fetching import fetched_whole

MOST_ADAPTERS = 64
DAMAGED = "Train the adapter again, and tell the administrator that a file in the object store has changed."


class AdapterCache:
    """The adapters used last, each in a directory named after the sha256 of what is in it. For one thread."""

    def __init__(self, directory: Path, objects: ObjectStore) -> None:
        self._directory = directory
        self._objects = objects
        self._known: OrderedDict[str, Path] = OrderedDict()

    def fetch(self, adapter: StoredAdapter) -> Path:
        """The adapter's directory. Raises ObjectNotFoundError, or CheckpointError for files that have changed."""
        hashes = {name: stored.sha256 for name, stored in adapter.files.items()}
        told = [hashes, adapter.description, adapter.max_tokens]  # all that is written below
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        if name not in self._known:
            with whole_directory(self._directory / name) as work:
                self._fill(work, adapter)
            self._known[name] = self._directory / name
        self._known.move_to_end(name)
        while len(self._known) > MOST_ADAPTERS:
            shutil.rmtree(self._known.popitem(last=False)[1], ignore_errors=True)
        return self._known[name]

    def _fill(self, work: Path, adapter: StoredAdapter) -> None:
        for name, stored in adapter.files.items():
            path = work / name
            if not fetched_whole(self._objects, stored.key, path, stored.sha256):
                raise CheckpointError(f"The adapter's {name} differs from what was stored.", DAMAGED)
            if name.endswith(".tar.gz"):
                _unpack(path, work)
                path.unlink()
        if adapter.max_tokens is not None:
            told = TaskSpec(description=adapter.description, max_tokens=adapter.max_tokens)
            (work / TASK).write_text(told.model_dump_json())


def _unpack(bundle: Path, target: Path) -> None:
    try:
        with tarfile.open(bundle, "r:gz") as archive:
            archive.extractall(target, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise CheckpointError(f"The adapter's bundle cannot be unpacked: {error}.", DAMAGED) from error
