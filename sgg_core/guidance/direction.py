"""Direction regularizer: keeps updates on directions that lasted, and so prevents drift (arXiv:2506.00726).

R_dir(g) = |g| - <g, d> = |g| (1 - cos(g, d)) >= 0,    dR_dir/dg = ghat - d

with d a unit vector, held constant under differentiation. L(theta) - lambda <g, d> is L(theta - lambda d) up to the
order of lambda^2: the regularizer moves what is minimal by lambda along d. So a reference that shall keep a run from
going somewhere points away from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sgg_core.gradients import Gradient, moved_towards, scaled, unit, zeros


class EmaReference:
    """d = moving average of past gradients, normalized.

    It starts from nothing, corrected for that; then there is no reference during the first `warm_up` updates, since an
    average of two or three gradients points nowhere yet. Or it starts from an `anchor`, which is a reference at once
    and fades by `beta` with each update.
    """

    def __init__(self, beta: float, warm_up: int = 5) -> None:
        self.beta = beta
        self.warm_up = warm_up
        self.updates = 0
        self.average: Gradient = ()
        self.anchored = False

    def anchor(self, gradient: Sequence[Tensor]) -> None:
        """Start from the gradient of the whole support set."""
        self.average = scaled(gradient, 1.0)
        self.anchored = True

    def direction(self) -> Gradient | None:
        """Unit reference from the gradients seen so far, or None while there are too few."""
        if self.anchored:
            return unit(self.average)
        if self.updates < self.warm_up:
            return None
        return unit(scaled(self.average, 1.0 / (1.0 - self.beta**self.updates)))

    def update(self, gradient: Sequence[Tensor]) -> None:
        """Take in the raw gradient of the step that just ended."""
        if not self.average:
            self.average = zeros(gradient)
        moved_towards(self.average, gradient, 1.0 - self.beta)
        self.updates += 1
