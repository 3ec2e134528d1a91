"""What parameter names tell: which parameters are one layer, and which are the two factors of one LoRA update."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FACTOR_A = ".lora_A."
FACTOR_B = ".lora_B."


@dataclass(frozen=True)
class Layer:
    """Parameters of one layer by their indices: `encoder.layer.3`, or `head`."""

    name: str
    members: tuple[int, ...]


@dataclass(frozen=True)
class FactorPair:
    """Indices of A (r, n) and B (m, r) of one LoRA update s B A, and s, which is alpha / r."""

    a: int
    b: int
    scale: float = 1.0


def layers(names: Sequence[str]) -> tuple[Layer, ...]:
    """Parameters grouped by what their names begin with, up to the first number: the blocks of a transformer."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        numbered = re.match(r"(.*?\.\d+)(?:\.|$)", name)
        found.setdefault(numbered[1] if numbered else name.partition(".")[0], []).append(index)
    return tuple(Layer(name, tuple(members)) for name, members in found.items())


def factor_pairs(names: Sequence[str], scale: float | Mapping[str, float] = 1.0) -> tuple[FactorPair, ...]:
    """The pairs of factors that peft's names make known; other parameters are in none.

    `scale` is that of all updates, or of each by the name of its A.
    """
    places = {name: index for index, name in enumerate(names)}
    scales = scale if isinstance(scale, Mapping) else dict.fromkeys(names, scale)
    return tuple(
        FactorPair(index, places[name.replace(FACTOR_A, FACTOR_B)], scales[name])
        for name, index in places.items()
        if FACTOR_A in name and name.replace(FACTOR_A, FACTOR_B) in places
    )
