"""Base models and adapters that stay in memory between questions. What was not used for longest leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgg_core.adapted_linear import quicken
from sgg_core.adapter_file import MANIFEST
from sgg_core.backbone import LoadedBase
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import CheckpointError
from sgg_core.loaded_bases import LoadedBases
from sgg_core.manifest import verify_directory
from sgg_core.predictor import task_of
from sgg_core.spec import TaskSpec
from sgg_core.start import read_start
from sgg_core.tasks.choice import task_for
from sgg_core.tasks.task import Task
from sgg_core.trials import TASK

MOST_ADAPTERS = 16  # on one base model
TOO_LARGE = "The administrator can raise SGG_TRIAL_MEMORY_BYTES."


@dataclass(frozen=True)
class Fitted:
    """An adapter that lies on a loaded base model: what it can be asked, and its task with its head, if it has one."""

    kinds: tuple[str, ...]
    task: Task


@dataclass
class AdaptedBase:
    """The adapters on a loaded base model, by name, the one used last at the end."""

    model: Any  # peft.PeftModel
    adapters: OrderedDict[str, Fitted] = field(default_factory=OrderedDict)


class Shelf:
    """Holds base models whose weights have at most `budget` bytes together, and adapters on them. For one thread."""

    def __init__(self, budget: int, device: torch.device) -> None:
        self._budget = budget
        self._adapted: dict[str, AdaptedBase] = {}  # by base model, once it has an adapter
        self._bases = LoadedBases(device, if_too_large=TOO_LARGE, on_leave=lambda name: self._adapted.pop(name, None))

    @contextmanager
    def taken(self, entry: BaseModelEntry, adapter: Path | None) -> Iterator[tuple[LoadedBase, Fitted | None]]:
        """The base model as it answers with the adapter of that directory, or bare; loaded if it is not there yet.

        A directory's name says which adapter it is: one of a name seen before is not read again. Raises
        BaseModelUnavailableError, also for what exceeds the budget, and CheckpointError for a damaged adapter.
        """
        base = self._bases.take(entry, self._budget)
        if adapter is None:
            if entry.name in self._adapted:
                self._adapted[entry.name].model.base_model.disable_adapter_layers()
            yield base, None
            return
        adapted = self._fitted(base, adapter)
        adapted.adapters.move_to_end(adapter.name)
        adapted.model.set_adapter(adapter.name, inference_mode=True)
        adapted.model.base_model.enable_adapter_layers()
        yield base, adapted.adapters[adapter.name]

    def _fitted(self, base: LoadedBase, directory: Path) -> AdaptedBase:
        """What lies on the base model, with the adapter of that directory."""
        from peft import PeftModel

        name, adapted = directory.name, self._adapted.get(base.entry.name)
        if adapted is not None and name in adapted.adapters:
            return adapted
        fitted = _of_bundle(base, directory) if (directory / MANIFEST).exists() else _of_checkpoint(base, directory)
        if adapted is None:
            adapted = AdaptedBase(PeftModel.from_pretrained(base.model, directory, adapter_name=name))
            self._adapted[base.entry.name] = adapted
        else:
            adapted.model.load_adapter(directory, adapter_name=name)
        adapted.model.eval()
        quicken(adapted.model)
        adapted.adapters[name] = fitted
        if len(adapted.adapters) > MOST_ADAPTERS:
            adapted.model.set_adapter(name, inference_mode=True)
            adapted.model.delete_adapter(adapted.adapters.popitem(last=False)[0])
        return adapted


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
            f"The adapter was trained on another version of {base.entry.name!r} than this worker has.",
            "The administrator can give all workers the same version of the base model.",
        )
