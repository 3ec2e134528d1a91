"""Base models and adapters that stay in memory between questions. What was not used for longest leaves first."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgg_core.adapter_file import MANIFEST
from sgg_core.backbone import LoadedBase, cache_directory, load_directory, weights_directory
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import BaseModelUnavailableError, CheckpointError
from sgg_core.manifest import verify_directory
from sgg_core.predictor import task_of
from sgg_core.spec import TaskSpec
from sgg_core.start import read_start
from sgg_core.tasks.choice import task_for
from sgg_core.tasks.task import Task
from sgg_core.trials import TASK

MOST_ADAPTERS = 16  # on one base model


@dataclass(frozen=True)
class Fitted:
    """An adapter that lies on a loaded base model: what it can be asked, and its task with its head, if it has one."""

    kinds: tuple[str, ...]
    task: Task


@dataclass
class Shelved:
    """A loaded base model and the adapters on it, by name, the one used last at the end."""

    base: LoadedBase
    bytes: int
    adapted: Any = None  # peft.PeftModel, once there is an adapter
    adapters: OrderedDict[str, Fitted] = field(default_factory=OrderedDict)


class Shelf:
    """Holds base models whose weights have at most `budget` bytes together. For one thread."""

    def __init__(self, budget: int, device: torch.device) -> None:
        self._budget = budget
        self._device = device
        self._bases: OrderedDict[str, Shelved] = OrderedDict()

    @contextmanager
    def taken(self, entry: BaseModelEntry, adapter: Path | None) -> Iterator[tuple[LoadedBase, Fitted | None]]:
        """The base model as it answers with the adapter of that directory, or bare; loaded if it is not there yet.

        A directory's name says which adapter it is: one of a name seen before is not read again. Raises
        BaseModelUnavailableError, also for what exceeds the budget, and CheckpointError for a damaged adapter.
        """
        shelved = self._shelved(entry)
        if adapter is None:
            if shelved.adapted is not None:
                shelved.adapted.base_model.disable_adapter_layers()
            yield shelved.base, None
            return
        fitted = shelved.adapters.get(adapter.name) or self._fit(shelved, adapter)
        shelved.adapters.move_to_end(adapter.name)
        shelved.adapted.set_adapter(adapter.name, inference_mode=True)
        shelved.adapted.base_model.enable_adapter_layers()
        yield shelved.base, fitted

    def _shelved(self, entry: BaseModelEntry) -> Shelved:
        shelved = self._bases.get(entry.name)
        if shelved is None or shelved.base.entry != entry:
            self._bases.pop(entry.name, None)
            del shelved
            directory = weights_directory(entry, cache_directory())
            on_disk = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
            self._make_room(entry, max(on_disk, 4 * entry.parameters))
            base = load_directory(entry, directory, self._device)
            size = sum(weights.numel() * weights.element_size() for weights in base.model.parameters())
            self._make_room(entry, size)  # which may be more than was to be expected
            shelved = self._bases[entry.name] = Shelved(base, size)
        self._bases.move_to_end(entry.name)
        return shelved

    def _make_room(self, entry: BaseModelEntry, needed: int) -> None:
        if needed > self._budget:
            raise BaseModelUnavailableError(
                f"Base model {entry.name!r} takes {needed:,} bytes; at most {self._budget:,} may be used for trials.",
                "The administrator can raise SGG_TRIAL_MEMORY_BYTES.",
            )
        while self._bases and sum(each.bytes for each in self._bases.values()) + needed > self._budget:
            self._bases.popitem(last=False)
        gc.collect()

    @staticmethod
    def _fit(shelved: Shelved, directory: Path) -> Fitted:
        from peft import PeftModel

        base, name = shelved.base, directory.name
        fitted = _of_bundle(base, directory) if (directory / MANIFEST).exists() else _of_checkpoint(base, directory)
        if shelved.adapted is None:
            shelved.adapted = PeftModel.from_pretrained(base.model, directory, adapter_name=name)
        else:
            shelved.adapted.load_adapter(directory, adapter_name=name)
        shelved.adapted.eval()
        shelved.adapters[name] = fitted
        if len(shelved.adapters) > MOST_ADAPTERS:
            shelved.adapted.set_adapter(name, inference_mode=True)
            shelved.adapted.delete_adapter(shelved.adapters.popitem(last=False)[0])
        return shelved.adapters[name]


def _of_bundle(base: LoadedBase, directory: Path) -> Fitted:
    manifest = verify_directory(directory)
    _check_base(base, manifest.base_model_sha256)
    return Fitted((manifest.kind,), task_of(manifest, base, directory))


def _of_checkpoint(base: LoadedBase, directory: Path) -> Fitted:
    """A checkpoint's weights know their labels; without any they write, after prompts or in chats alike."""
    start = read_start(directory)
    _check_base(base, start.facts.metadata.base_model_sha256)
    told = TaskSpec.model_validate_json((directory / TASK).read_bytes())
    labels = start.facts.metadata.labels
    kinds = ("classification",) if labels else ("chat", "completion")
    task = task_for(base, kinds[0], labels or (), told.description, told.max_tokens)
    start.put_on_head(task)
    return Fitted(kinds, task)


def _check_base(base: LoadedBase, sha256: str | None) -> None:
    if sha256 != base.sha256:
        raise CheckpointError(
            f"The adapter was trained on other weights of {base.entry.name!r} than this worker has.",
            "The administrator can give all workers the same version of the base model.",
        )
