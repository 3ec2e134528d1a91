"""Base models that stay in memory within a budget. The one that was not used for longest leaves first."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable

import torch

from sgg_core.backbone import LoadedBase
from sgg_core.base_files import cache_directory, weights_directory
from sgg_core.base_loading import default_device, load_directory
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import BaseModelUnavailableError


class LoadedBases:
    """Holds base models. For one thread.

    One that alone exceeds the budget is refused with the remedy `if_too_large`; where that is None it is loaded, and is
    then the only one. `on_leave` is told the name of each that leaves, so that nothing of it is held elsewhere.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        if_too_large: str | None = None,
        on_leave: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._device = device or default_device()
        self._if_too_large = if_too_large
        self._on_leave = on_leave
        self._bases: OrderedDict[str, LoadedBase] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Those in memory, the one used last at the end."""
        return tuple(self._bases)

    def holds(self, entry: BaseModelEntry) -> bool:
        """Whether the base model is in memory as this entry describes it."""
        return entry.name in self._bases and self._bases[entry.name].entry == entry

    def take(self, entry: BaseModelEntry, budget: int) -> LoadedBase:
        """The base model, loaded unless it is there as this entry describes it.

        Others stay if the weights of all have at most `budget` bytes. Raises BaseModelUnavailableError.
        """
        if not self.holds(entry):
            if entry.name in self._bases:
                self._let_go(entry.name)
            self._bases[entry.name] = self._load(entry, budget)
        self._bases.move_to_end(entry.name)
        self._make_room(entry, 0, budget)
        return self._bases[entry.name]

    def bytes_beside(self, entry: BaseModelEntry) -> int:
        """What the others take."""
        return sum(_bytes(base) for name, base in self._bases.items() if name != entry.name)

    def _load(self, entry: BaseModelEntry, budget: int) -> LoadedBase:
        directory = weights_directory(entry, cache_directory())
        on_disk = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        self._make_room(entry, max(on_disk, 4 * entry.parameters), budget)
        base = load_directory(entry, directory, self._device)
        self._make_room(entry, _bytes(base), budget)  # which may be more than was to be expected
        return base

    def _make_room(self, entry: BaseModelEntry, needed: int, budget: int) -> None:
        """Let others go until `needed` more bytes fit."""
        if needed > budget and self._if_too_large is not None:
            raise BaseModelUnavailableError(
                f"Base model {entry.name!r} takes {needed:,} bytes; at most {budget:,} may be used.", self._if_too_large
            )
        for name in self.names:
            if name != entry.name and sum(map(_bytes, self._bases.values())) + needed > budget:
                self._let_go(name)

    def _let_go(self, name: str) -> None:
        del self._bases[name]
        self._on_leave(name)
        gc.collect()


def _bytes(base: LoadedBase) -> int:
    """Of the base model's own weights and their copies; an adapter that lies on it is not counted."""
    own: int = sum(
        each.numel() * each.element_size() for name, each in base.model.named_parameters() if ".lora_" not in name
    )
    return own + (0 if base.halves is None else base.halves.bytes)
