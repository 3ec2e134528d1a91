"""Products with frozen weights in bfloat16, on processors that compute these twice as fast as those in float32."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sgg_core.errors import SettingError

_passes = threading.local()


class Halves:
    """bfloat16 copies of a base model's frozen weights, made when they are first needed: half as much memory again.

    Products with them take and give float32. So does everything else in a pass: the adapter's own products, norms and
    attention.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # of a weight's id: itself, its version, its copy

    def of(self, weight: Tensor) -> Tensor:
        """The copy of a weight; the weight itself if it is trained, or no float32."""
        if weight.requires_grad or weight.dtype != torch.float32:
            return weight
        found = self._copies.get(id(weight))
        if found is None or found[1] != weight._version:
            with torch.inference_mode(False):  # a pass with gradients may need it later
                found = self._copies[id(weight)] = (weight, weight._version, weight.to(torch.bfloat16))
        return found[2]

    @property
    def bytes(self) -> int:
        """That the copies take now."""
        return sum(copy.numel() * copy.element_size() for _, _, copy in self._copies.values())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let passes of this thread compute with them."""
        before, _passes.halves = halves_in_use(), self
        try:
            yield
        finally:
            _passes.halves = before


def halves_in_use() -> Halves | None:
    """Those that passes of this thread compute with, if any."""
    return getattr(_passes, "halves", None)


def frozen(weight: Tensor) -> Tensor:
    """What the products with a frozen weight are to be computed with."""
    halves = halves_in_use()
    return weight if halves is None else halves.of(weight)


def wanted_halves(device: torch.device) -> Halves | None:
    """Those of a base model on this device: where its processor is quick with them.

    $SGG_CPU_PRECISION, `auto` or `float32`, can do without. Raises SettingError for another value.
    """
    wanted = os.environ.get("SGG_CPU_PRECISION") or "auto"
    if wanted not in ("auto", "float32"):
        raise SettingError(f"SGG_CPU_PRECISION is {wanted!r}.", "Set it to 'auto' or 'float32', or leave it out.")
    return Halves() if wanted == "auto" and device.type == "cpu" and processor_is_quick() else None


def processor_is_quick() -> bool:
    """Whether this processor has instructions for products in bfloat16."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in known)
