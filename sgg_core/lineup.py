"""The runs that a training consists of, in the order of their numbers. Loads no torch.

Those on a part of the examples come first, each learning rate with each fold; then those on all of them, with each
seed: with every learning rate, or with the one that the folds have chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sgg_core.cross_validation import FoldOutcome, best_rate
from sgg_core.errors import SpecError
from sgg_core.examples import ExampleSet
from sgg_core.folds import Part, deal
from sgg_core.plan import Plan, make_plan, usual_batch_size
from sgg_core.spec import EvaluationSpec, OptimizationSpec, TrainingSpec

MOST_STEPS_ASKED = 1_000_000  # of all runs of a spec together


@dataclass(frozen=True)
class Replica:
    """One run. `fold` counts from 1 and its `part` is what it trains on; None where that is all examples."""

    number: int
    spec: TrainingSpec
    steps: int
    fold: int | None = None
    part: Part | None = None

    @property
    def rate(self) -> float | None:
        """Its peak learning rate, where the spec names it."""
        wanted = self.spec.optimization
        return wanted.learning_rate * wanted.multiplier if isinstance(wanted.learning_rate, float) else None


def check_steps(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> None:
    """Raise SpecError where a spec asks for more steps than any few-shot training can need."""
    steps = total_steps(spec, kind, examples, labels)
    if steps > MOST_STEPS_ASKED:
        raise SpecError(
            f"The training would take {steps:,} steps; at most {MOST_STEPS_ASKED:,} are allowed.",
            "Lower the epochs, set max_steps, or name fewer seeds, folds or learning rates.",
        )


def total_steps(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> int:
    """Steps of all runs of a spec together, at most, on so many training examples with so many labels."""
    wanted, whole = spec.optimization, make_plan(spec, kind, examples, labels).total_steps
    return wanted.tried * _fold_steps(spec, kind, examples, labels) + wanted.whole * whole


def _fold_steps(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> int:
    """As many in each fold, so that all save at the same steps, and none learns longer than another one."""
    folds = spec.optimization.folds
    if folds is None:
        return 0
    spec = spec_of_folds(spec, kind, examples, labels)
    left_out = examples // folds, -(-examples // folds)
    return min(make_plan(spec, kind, max(1, examples - size), labels).total_steps for size in left_out)


def spec_of_folds(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> TrainingSpec:
    """With batches as large as those of a run on all examples, for which folds choose."""
    if spec.optimization.batch_size != "auto":
        return spec
    size = {"batch_size": usual_batch_size(spec, kind, examples, labels)}
    return spec.model_copy(update={"optimization": spec.optimization.model_copy(update=size)})


def plan_of_part(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int, part: int) -> Plan:
    """How a run would be on `part` of so many examples, with batches as large as on all of them."""
    return make_plan(spec_of_folds(spec, kind, examples, labels), kind, part, labels)


class Lineup:
    """All runs of a spec on a training file, for a base model of `kind`. Raises DataError if it is too small."""

    def __init__(self, spec: TrainingSpec, kind: Literal["causal", "encoder"], training: ExampleSet) -> None:
        self.spec = spec
        self._plan = make_plan(spec, kind, *training.sizes)
        folds = spec.optimization.folds
        self._parts = deal(training, folds, spec.seed) if folds else []
        self._steps = _fold_steps(spec, kind, *training.sizes)
        self._of_folds = spec_of_folds(spec, kind, *training.sizes)
        self.total_steps = total_steps(spec, kind, *training.sizes)
        """Steps of all runs together, at most."""

    def replica(self, number: int, folds: Mapping[int, FoldOutcome]) -> Replica:
        """One of them. Those on all examples need the outcomes of all folds, by their numbers."""
        wanted = self.spec.optimization
        if number < wanted.tried:
            rate, fold = divmod(number, len(self._parts))
            spec = _with(self._of_folds, 0, learning_rate=wanted.learning_rates[rate], max_steps=self._steps)
            looks = EvaluationSpec(every_steps=self._steps, baselines=())
            saves = self.spec.checkpoint.model_copy(update={"every_steps": self._plan.checkpoint_every})
            spec = spec.model_copy(update={"evaluation": looks, "checkpoint": saves})
            return Replica(number, spec, self._steps, fold + 1, self._parts[fold])
        rate, seed = divmod(number - wanted.tried, wanted.seeds)
        if self._parts:
            chosen = best_rate(self.by_rate(folds))
            assert chosen is not None  # else the training has ended
            rate = chosen
        spec = _with(self.spec, seed, learning_rate=wanted.learning_rates[rate])
        return Replica(number, spec, self._plan.total_steps)

    def by_rate(self, folds: Mapping[int, FoldOutcome]) -> list[list[FoldOutcome]]:
        """The outcomes of all folds, those of each learning rate in a list of their own."""
        size = len(self._parts)
        return [[folds[first + fold] for fold in range(size)] for first in range(0, len(folds), size)]

    def folds_failed(self, folds: Mapping[int, FoldOutcome]) -> bool:
        """Whether all folds have ended, and each learning rate has one that diverged."""
        whole = 0 < len(folds) == self.spec.optimization.tried
        return whole and best_rate(self.by_rate(folds)) is None

    def left(self, ended: Collection[int]) -> list[int]:
        """The numbers of those that can be trained now: no run on all examples before all folds have ended."""
        wanted = self.spec.optimization
        stages = range(wanted.tried), range(wanted.tried, wanted.replicas)
        for stage in stages:
            if left := [number for number in stage if number not in ended]:
                return left
        return []


def _with(spec: TrainingSpec, seed: int, **optimization: Any) -> TrainingSpec:
    return spec.model_copy(
        update={
            "seed": (spec.seed + seed) % 2**31,
            "optimization": spec.optimization.model_copy(update=optimization),
        }
    )


def names_of(wanted: OptimizationSpec, replicas: Sequence[Replica]) -> str:
    """By what they differ: "Seeds 1, 2 at once", "Learning rate 0.001 with seed 1", "Learning rate 0.001 in fold 2"."""
    of_folds = replicas[0].fold is not None
    others = [f"{each.fold}" if of_folds else f"{each.spec.seed}" for each in replicas]
    if len(wanted.learning_rates) > 1 and (of_folds or not wanted.folds):
        rates = [f"{each.rate:g}" for each in replicas if each.rate is not None]
        joint, kind = " in fold " if of_folds else " with seed ", "Learning rate"
        alone = not of_folds and wanted.seeds == 1
        named = rates if alone else [joint.join(pair) for pair in zip(rates, others, strict=True)]
    elif of_folds or wanted.seeds > 1 or not wanted.folds:
        kind, named = "Fold" if of_folds else "Seed", others
    else:
        return "All examples"
    return f"{kind}s {', '.join(named)} at once" if len(replicas) > 1 else f"{kind} {named[0]}"
