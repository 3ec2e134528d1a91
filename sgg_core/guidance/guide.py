"""The guided step's arithmetic, for one job, as pure functions over lists of tensors. The passes happen elsewhere.

J = L + lambda_d R_dir + lambda_m R_mag + lambda_s R_align has the gradient

    grad J = g + H v,    v = (lambda_m + lambda_d + lambda_s) ghat - lambda_d d - lambda_s ghat_S

With lambda = a r, one more gradient g' at theta + r v/|v| gives H v by a finite difference:

    grad J ~ g + |v_a| (g' - g),    v_a = (a_m + a_d + a_s) ghat - a_d d - a_s ghat_S

so the strengths a are free of scale. a_d = a_s = 0 is the gradient-norm penalty; a_m = 1 with that is SAM.
Strengths may be multiplied by any factor: v_a is linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sgg_core.gradients import Gradient, combined, norm, unit
from sgg_core.guidance import magnitude


@dataclass(frozen=True)
class Strengths:
    """a_m, a_d, a_s: strengths of the magnitude, direction and alignment regularizers, 0..1."""

    magnitude: float = 0.0
    direction: float = 0.0
    alignment: float = 0.0

    def times(self, factor: float) -> Strengths:
        """All strengths times `factor`."""
        return Strengths(self.magnitude * factor, self.direction * factor, self.alignment * factor)


def perturbation(
    gradient: Sequence[Tensor],
    strengths: Strengths,
    reference: Sequence[Tensor] | None = None,
    source: Sequence[Tensor] | None = None,
    magnitude_threshold: float = 0.0,
) -> Gradient | None:
    """v_a for the raw gradient g, the unit reference d and the unit source gradient ghat_S.

    A regularizer whose vector is missing does not act. None means v_a = 0: no second pass is needed.
    """
    own = unit(gradient)
    if own is None:
        return None
    of_own = magnitude.coefficients(strengths.magnitude, norm(gradient), magnitude_threshold)
    terms: list[tuple[float, Sequence[Tensor]]] = []
    for strength, vector in ((strengths.direction, reference), (strengths.alignment, source)):
        if vector is not None and strength != 0.0:
            of_own += strength
            terms.append((-strength, vector))
    if of_own == 0.0 and not terms:
        return None
    return combined([(of_own, own), *terms])


def combine(gradient: Sequence[Tensor], perturbed: Sequence[Tensor], v: Sequence[Tensor]) -> Gradient:
    """grad J ~ g + |v_a| (g' - g), with g' taken at theta + r v_a/|v_a| on the same batch."""
    share = norm(v)
    return combined([(1.0 - share, gradient), (share, perturbed)])


def every_kth(step: int, factor: float, every: int) -> float:
    """The factor on all strengths where only every k-th step (from 1) is corrected, k times as strongly: else 0."""
    return factor * every if step % every == 0 else 0.0


def ramp(step: int, total_steps: int, warmup_fraction: float, ramp_fraction: float) -> float:
    """Factor 0..1 on all strengths at `step` (from 1): 0 through the warm-up, then rising linearly over the ramp.

    Without it AdamW with a gradient penalty can end worse than AdamW alone (Zhao et al., ICML 2024).
    """
    start = warmup_fraction * total_steps
    if step <= start:
        return 0.0
    width = ramp_fraction * total_steps
    return 1.0 if width <= 0.0 else min(1.0, (step - start) / width)
