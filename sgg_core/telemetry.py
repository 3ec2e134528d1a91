"""Summary metrics of a run from its per-step messages: stability, direction, source alignment (docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, pstdev

from pydantic import BaseModel

from sgg_core.reporting import StepMetrics

NEGLIGIBLE = 1e-12
"""A gradient of a smaller norm is none: that of a batch from which nothing can be learned."""


class Stability(BaseModel):
    """How steady the raw gradient's norm was. `log_norm_change_std` is free of scale and of trend.

    Shares are of steps, and `abnormal_steps` and `clipped_steps` say of how many: of few steps one is a large share.
    """

    log_norm_change_std: float | None
    abnormal_share: float
    abnormal_steps: int = 0
    clipped_share: float
    clipped_steps: int = 0
    gradient_norm_mean: float
    projected_gradient_norm_mean: float | None = None


class Direction(BaseModel):
    """How straight the run was. Path efficiency is |theta_T - theta_0| / sum |step|, in 0..1.

    Cosines hang on the batch size: docs/method.md has what those of two independent batches average.
    """

    batch_size: int
    reference_cosine_mean: float | None
    projected_reference_cosine_mean: float | None = None
    path_efficiency: float | None


class SourceAlignment(BaseModel):
    """Agreement with the source tasks. A conflict is a step with cos(g_T, g_S) < 0."""

    cosine_mean: float
    conflict_share: float
    weight_mean: float
    projected_cosine_mean: float | None = None
    layer_cosine_means: dict[str, float] = {}


def log_norm_changes(norms: Sequence[float]) -> list[float]:
    """log|g_t| - log|g_(t-1)| over consecutive steps of those that have a gradient."""
    logs = [math.log(norm) for norm in norms if norm >= NEGLIGIBLE]
    return [after - before for before, after in pairwise(logs)]


def stability(steps: Sequence[StepMetrics], warmup_steps: int, z: float = 2.5) -> Stability:
    """Figures over the steps after the learning-rate warm-up. Abnormal: a change of log|g| beyond z deviations."""
    steady = [entry for entry in steps if entry.step > warmup_steps] or list(steps)
    changes = log_norm_changes([entry.gradient_norm for entry in steady])
    deviation = pstdev(changes) if len(changes) > 1 else None
    centre = fmean(changes) if changes else 0.0
    abnormal = [change for change in changes if deviation and change - centre > z * deviation]
    return Stability(
        log_norm_change_std=deviation,
        abnormal_share=len(abnormal) / len(changes) if changes else 0.0,
        abnormal_steps=len(abnormal),
        clipped_share=fmean(entry.clipped for entry in steps),
        clipped_steps=sum(entry.clipped for entry in steps),
        gradient_norm_mean=fmean(entry.gradient_norm for entry in steps),
        projected_gradient_norm_mean=_mean(entry.projected_gradient_norm for entry in steps),
    )


def direction(steps: Sequence[StepMetrics], batch_size: int, distance: float, path_length: float) -> Direction:
    """Mean cosine to the reference, and path efficiency from |theta_T - theta_0| and the sum of step lengths."""
    return Direction(
        batch_size=batch_size,
        reference_cosine_mean=_mean(entry.reference_cosine for entry in steps),
        projected_reference_cosine_mean=_mean(entry.projected_reference_cosine for entry in steps),
        # No way is shorter than the straight one, but on a straight run the two lengths round apart.
        path_efficiency=min(distance / path_length, 1.0) if path_length > 0 else None,
    )


def source_alignment(steps: Sequence[StepMetrics], layer_means: dict[str, float]) -> SourceAlignment | None:
    """Figures over the steps that saw a source batch; None for runs in which none did."""
    seen = [entry for entry in steps if entry.source_cosine is not None]
    if not seen:
        return None
    return SourceAlignment(
        cosine_mean=fmean(entry.source_cosine or 0.0 for entry in seen),
        projected_cosine_mean=_mean(entry.projected_source_cosine for entry in seen),
        layer_cosine_means=layer_means,
        conflict_share=fmean((entry.source_cosine or 0.0) < 0 for entry in seen),
        weight_mean=fmean(entry.source_weight or 0.0 for entry in seen),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None where there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
