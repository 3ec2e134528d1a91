"""Source/target alignment: how well source and target gradients agree, and what follows from it (arXiv:2506.00726).

R_align(g) = |g| - <g, ghat_S>,    dR_align/dg = ghat - ghat_S       (g_S held constant)

The target has priority: the part of g_S that points against g_T is removed (as in PCGrad, Yu et al. 2020), the rest is
weighted, so <g, g_T> >= |g_T|^2 for the sum g. All of it can be done for the whole gradient or for each layer by
itself: the inequality holds layer by layer, and so for the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgg_core.gradients import Gradient, combined, cosine, inner, norm


def without_conflict(source: Sequence[Tensor], target: Sequence[Tensor]) -> Gradient:
    """g_S - min(0, <g_S, g_T>) / |g_T|^2 g_T: the source gradient less its part against the target."""
    product = inner(source, target)
    if product >= 0.0:
        return list(source)
    return combined([(1.0, source), (-product / (inner(target, target) + 1e-24), target)])


def weight(wanted: float, source_norm: float, target_norm: float, cap: float) -> float:
    """The wanted factor, but at least 0, for the conflict-free source gradient; lowered where |w g_S'| > cap |g_T|."""
    if source_norm == 0.0:
        return 0.0
    bound = math.inf if math.isinf(cap) else cap * target_norm / source_norm
    return min(max(0.0, wanted), bound)


def equal_rank_weights(gradients: Sequence[Sequence[Tensor]]) -> list[float]:
    """Weights w, so that sum_i w_i g_i has no negative inner product with any of the m gradients: UPGrad, times m.

    Without conflict all are 1 (Quinton and Rey 2024, arXiv:2406.16232). torchjd works it out, from cosines and with
    each gradient's length as its preference: the same problem in other units, in which small gradients count, too.
    """
    from torchjd.aggregation import UPGradWeighting

    lengths = torch.tensor([norm(gradient) for gradient in gradients], dtype=torch.float64)
    largest = float(lengths.max())
    if largest == 0.0:
        return [1.0] * len(gradients)
    lengths = lengths.clamp(min=1e-12 * largest)  # one of nothing conflicts with none
    inners = torch.tensor([[inner(a, b) for b in gradients] for a in gradients], dtype=torch.float64)
    cosines = inners / torch.outer(lengths, lengths)
    weights = UPGradWeighting(lengths / largest)(cosines) * largest / lengths
    return [float(weight) for weight in weights]


class SmoothedCosine:
    """Moving average of cos(g_T, g_S), bias-corrected; one measurement of a small batch is mostly noise."""

    def __init__(self, beta: float = 0.9) -> None:
        self.beta = beta
        self.updates = 0
        self.average = 0.0

    @classmethod
    def restored(cls, updates: int, average: float) -> SmoothedCosine:
        """One that has seen something before."""
        smoothed = cls()
        smoothed.updates, smoothed.average = updates, average
        return smoothed

    def update(self, cosine: float) -> float:
        """Take in one measurement and return the smoothed value."""
        self.updates += 1
        self.average = self.beta * self.average + (1.0 - self.beta) * cosine
        return self.average / (1.0 - self.beta**self.updates)


@dataclass(frozen=True)
class SourceShare:
    """What a source adds to the gradient, the raw cosine, and |added| / |g_S'|."""

    added: Gradient
    cosine: float
    weight: float


def share(
    target: Sequence[Tensor],
    source: Sequence[Tensor],
    parts: Sequence[Sequence[int]],
    agreement: Sequence[SmoothedCosine],
    wanted: float | None,
    cap: float,
) -> SourceShare:
    """A source's share, each of the `parts` (indices of parameters) by itself; `source` is over the target's list.

    The weight is `wanted`, or without it max(0, smoothed cosine) (Du et al. 2018), and at most what `cap` allows.
    """
    added = [torch.zeros_like(tensor) for tensor in source]
    helpful_square = 0.0
    for indices, smoothed in zip(parts, agreement, strict=True):
        g, g_s = [target[index] for index in indices], [source[index] for index in indices]
        trend = smoothed.update(cosine(g, g_s))
        helpful = without_conflict(g_s, g)
        length = norm(helpful)
        factor = weight(trend if wanted is None else wanted, length, norm(g), cap)
        for index, tensor in zip(indices, helpful, strict=True):
            added[index] = tensor * factor
        helpful_square += length**2
    whole = helpful_square**0.5
    return SourceShare(added, cosine(target, source), norm(added) / whole if whole > 0.0 else 0.0)
