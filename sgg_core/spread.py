"""What the replicas of one training reached, in figures and in a sentence. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import BaseModel

ACCURACY = "accuracy on the validation examples"
# 97.5 % points of Student's t by degrees of freedom, 1 to 9.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Outcome(BaseModel):
    """What one replica reached. Validation figures are None without a validation file, all are where it diverged."""

    seed: int
    learning_rate: float
    steps: int
    trained_tokens: int
    train_loss: float | None
    valid_loss: float | None
    valid_accuracy: float | None
    diverged: bool = False


class Spread(BaseModel):
    """Figures over the seeds of the learning rate that is kept. `low` and `high` bound the 95 % interval of the mean
    (Student's t).

    `measure` is the accuracy on the validation examples, without labels their loss, and without such a file the last
    training loss. `deviation` and the interval are None where one seed is all there is.
    """

    runs: list[Outcome]
    kept_seed: int
    kept_learning_rate: float
    measure: str
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    verdict: str


def best(runs: Sequence[Outcome]) -> int | None:
    """Number of the run whose adapter is kept: of the lowest validation loss, or the first one without such a file.

    None where all have diverged.
    """
    losses = {
        number: math.inf if run.valid_loss is None else run.valid_loss
        for number, run in enumerate(runs)
        if not run.diverged
    }
    return min(losses, key=losses.__getitem__, default=None)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of 2 to 10 values (Student's t)."""
    mean, reach = fmean(values), STUDENT[len(values) - 2] * stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def spread(runs: Sequence[Outcome], *, labelled: bool) -> Spread:
    """Figures over two or more runs, one of which at least has not diverged, on examples with labels or without."""
    number = best(runs)
    assert number is not None
    kept = runs[number]
    alike = [run for run in runs if run.learning_rate == kept.learning_rate and not run.diverged]
    measures = {
        ACCURACY: [run.valid_accuracy if labelled else None for run in alike],
        "loss on the validation examples": [run.valid_loss for run in alike],
        "last training loss": [run.train_loss for run in alike],
    }
    whole = {name: values for name, found in measures.items() if len(values := _known(found)) == len(alike)}
    name, values = next(iter(whole.items()))
    mean, deviation, low, high = fmean(values), None, None, None
    if len(values) > 1:
        deviation = stdev(values)
        low, high = student_interval(values)
        low, high = max(0.0, low), min(1.0, high) if name == ACCURACY else high
    sentences = [_of_rates(runs, kept), _of_seeds(values, name, mean, deviation, low, high), _of_kept(runs, kept)]
    return Spread(
        runs=list(runs),
        kept_seed=kept.seed,
        kept_learning_rate=kept.learning_rate,
        measure=name,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        verdict=" ".join(sentence for sentence in sentences if sentence),
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _of_rates(runs: Sequence[Outcome], kept: Outcome) -> str:
    """Which learning rate was best, and whether the list should go on beyond it."""
    rates = list(dict.fromkeys(run.learning_rate for run in runs))
    if len(rates) == 1:
        return ""
    told = [f"{rate:g} ({_lowest([run for run in runs if run.learning_rate == rate])})" for rate in sorted(rates)]
    return f"Lowest validation loss by learning rate: {', '.join(told)}.{beyond_the_list(rates, kept.learning_rate)}"


def beyond_the_list(rates: Sequence[float], kept: float) -> str:
    """That a list of learning rates should go on, where the kept one is at an edge of it."""
    for edge, beyond in ((min(rates), "lower"), (max(rates), "higher")):
        if kept == edge:
            return f" {edge:g} is the {beyond[:-2]}est of the list: a {beyond} one may be better still."
    return ""


def _lowest(runs: Sequence[Outcome]) -> str:
    losses = [run.valid_loss for run in runs if run.valid_loss is not None]
    return f"{min(losses):.3f}" if losses else "diverged"


def _of_seeds(
    values: Sequence[float], name: str, mean: float, deviation: float | None, low: float | None, high: float | None
) -> str:
    if deviation is None:
        return ""
    return (
        f"With {len(values)} seeds the {name} was {mean:.3f} on average, from {min(values):.3f} to "
        f"{max(values):.3f} (standard deviation {deviation:.3f}, 95 % interval of the mean {low:.3f} to {high:.3f})."
    )


def _of_kept(runs: Sequence[Outcome], kept: Outcome) -> str:
    """Whose adapter it is, and who was left out."""
    judged = kept.valid_loss is not None
    why = (
        "whose validation loss is the lowest"
        if judged
        else "the first one, because no validation file says which is best"
    )
    several = len({run.learning_rate for run in runs}) > 1
    which = f"seed {kept.seed}" + (f" with the learning rate {kept.learning_rate:g}" if several else "")
    lost = [f"seed {run.seed} at {run.learning_rate:g}" for run in runs if run.diverged]
    return f"The adapter is that of {which}, {why}." + (f" Diverged: {', '.join(lost)}." if lost else "")
