"""Magnitude control: a regularizer on the gradient's norm, and clipping of abnormal gradients (arXiv:2506.00726).

R_mag(g) = (|g| - tau)+,    dR_mag/dg = ghat 1[|g| > tau]

tau = 0 is the gradient-norm penalty of Zhao et al. (ICML 2022).
"""

from __future__ import annotations

import math

from sgg_core.telemetry import NEGLIGIBLE

BETA, WARM_UP, MIN_STD = 0.9, 6, 0.1


def coefficients(strength: float, gradient_norm: float, threshold: float) -> float:
    """Coefficient of ghat that `strength` times dR_mag/dg adds to the Hessian-vector product's vector v."""
    return strength if gradient_norm > threshold else 0.0


class LogNormClip:
    """Clips gradients whose norm is abnormal for this run: a running z-score of log|g| (ZClip, arXiv:2504.02507).

    In log space, since gradient norms of few-shot runs fall over orders of magnitude. An abnormal norm is brought back
    to `z` standard deviations above the running mean, and enters the statistics as such. Statistics decay by `BETA`;
    nothing is clipped during the first `WARM_UP` steps. A step without a gradient says nothing about what is normal.
    """

    def __init__(self, z: float) -> None:
        self.z = z
        self.count = 0
        self.mean = 0.0
        self.variance = 0.0

    def threshold(self) -> float:
        """Largest norm that is still normal; infinite during the warm-up."""
        if self.count < WARM_UP:
            return math.inf
        return math.exp(self.mean + self.z * max(MIN_STD, self.variance**0.5))

    def scale(self, gradient_norm: float) -> float:
        """Factor in (0, 1] for a gradient of this norm; updates the statistics."""
        if gradient_norm < NEGLIGIBLE:
            return 1.0
        limit = self.threshold()
        self._observe(math.log(min(gradient_norm, limit)))
        return 1.0 if gradient_norm <= limit else limit / gradient_norm

    def _observe(self, log_norm: float) -> None:
        self.count += 1
        # Plain averages at first, so that the statistics of short runs don't hang on their first step.
        weight = max(1.0 - BETA, 1.0 / self.count)
        change = log_norm - self.mean
        self.mean += weight * change
        self.variance = (1.0 - weight) * (self.variance + weight * change * change)
