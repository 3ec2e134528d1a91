"""Source/target alignment: how well source and target gradients agree, and what follows from it (arXiv:2506.00726).

R_align(g) = |g| - <g, ghat_S>,    dR_align/dg = ghat - ghat_S       (g_S held constant)

The target has priority: the part of g_S that points against g_T is removed (as in PCGrad, Yu et al. 2020), the rest is
weighted by the smoothed cosine (Du et al. 2018) and capped at rho |g_T|, so <g, g_T> >= |g_T|^2 for the sum g.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sgg_core.gradients import Gradient, combined, inner


def coefficients(strength: float) -> tuple[float, float]:
    """Coefficients of (ghat, ghat_S) that `strength` times dR_align/dg adds to the Hessian-vector product's v."""
    return strength, -strength


def without_conflict(source: Sequence[Tensor], target: Sequence[Tensor], eps: float = 1e-24) -> Gradient:
    """g_S - min(0, <g_S, g_T>) / |g_T|^2 g_T: the source gradient less its part against the target."""
    product = inner(source, target)
    if product >= 0.0:
        return list(source)
    return combined([(1.0, source), (-product / (inner(target, target) + eps), target)])


def weight(smoothed_cosine: float, source_norm: float, target_norm: float, cap: float, gated: bool) -> float:
    """Factor w for the conflict-free source gradient, with |w g_S'| <= cap |g_T|.

    Gated: w = max(0, smoothed cos(g_T, g_S)), capped. Fixed: the source gradient at exactly the cap, or at its own
    length where that is smaller.
    """
    if source_norm == 0.0:
        return 0.0
    wanted = max(0.0, smoothed_cosine) if gated else 1.0
    return min(wanted, cap * target_norm / source_norm)


class SmoothedCosine:
    """Moving average of cos(g_T, g_S), bias-corrected; one measurement of a small batch is mostly noise."""

    def __init__(self, beta: float = 0.9) -> None:
        self.beta = beta
        self.updates = 0
        self.average = 0.0

    def update(self, cosine: float) -> float:
        """Take in one measurement and return the smoothed value."""
        self.updates += 1
        self.average = self.beta * self.average + (1.0 - self.beta) * cosine
        return self.average / (1.0 - self.beta**self.updates)


def mixed(target: Sequence[Tensor], source: Sequence[Tensor], factor: float) -> Gradient:
    """g_T + factor * g_S' for the conflict-free source gradient g_S'."""
    return combined([(1.0, target), (factor, source)])
