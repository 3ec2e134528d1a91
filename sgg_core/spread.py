"""What several seeds of one training reached, in figures and in a sentence. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import BaseModel

MOST_SEEDS = 10
# 97.5 % points of Student's t by degrees of freedom, 1 to 9.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class SeedOutcome(BaseModel):
    """What one seed reached; validation figures are None without a validation file."""

    seed: int
    steps: int
    trained_tokens: int
    train_loss: float
    valid_loss: float | None
    valid_accuracy: float | None


class Spread(BaseModel):
    """Figures over all seeds. `low` and `high` bound the 95 % interval of the mean (Student's t).

    `measure` is the accuracy on the validation examples, or without such a file the last training loss.
    """

    runs: list[SeedOutcome]
    kept_seed: int
    measure: str
    mean: float
    deviation: float
    low: float
    high: float
    verdict: str


def best(runs: Sequence[SeedOutcome]) -> int:
    """Number of the run whose adapter is kept: of the lowest validation loss, or the first one without such a file."""
    losses = [math.inf if run.valid_loss is None else run.valid_loss for run in runs]
    return losses.index(min(losses))


def spread(runs: Sequence[SeedOutcome]) -> Spread:
    """Figures over two or more runs."""
    kept = runs[best(runs)]
    accuracies = [run.valid_accuracy for run in runs if run.valid_accuracy is not None]
    measured = len(accuracies) == len(runs)
    values = accuracies if measured else [run.train_loss for run in runs]
    mean, deviation = fmean(values), stdev(values)
    reach = STUDENT[len(values) - 2] * deviation / math.sqrt(len(values))
    low, high = (max(0.0, mean - reach), mean + reach)
    high = min(1.0, high) if measured else high
    name = "accuracy on the validation examples" if measured else "last training loss"
    why = "whose validation loss is the lowest" if measured else "the first one, since no validation file can tell"
    return Spread(
        runs=list(runs),
        kept_seed=kept.seed,
        measure=name,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        verdict=f"With {len(runs)} seeds the {name} was {mean:.3f} on average, from {min(values):.3f} to "
        f"{max(values):.3f} (standard deviation {deviation:.3f}, 95 % interval of the mean {low:.3f} to {high:.3f}). "
        f"The adapter is that of seed {kept.seed}, {why}.",
    )
