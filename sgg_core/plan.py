"""What a spec means for given data: `auto` resolved, steps counted, the learning rate of every step. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sgg_core.seeding import balanced_batch, epoch_order
from sgg_core.spec import TrainingSpec

BATCH_SIZE, BALANCED_BATCH_SIZE = 8, 16
ENOUGH_SHOTS = 16  # examples of each label with which larger balanced batches gain nothing any more
# What was best over several tasks with few examples per class (docs/results/): peak learning rates, bounds of the
# gradient's norm, and numbers of optimizer steps for 32 examples. More examples get more steps, but fewer epochs.
LEARNING_RATE = {"causal": 5e-4, "encoder": 1e-3}
CLIP_NORM = {"causal": 1.0, "encoder": 0.2}
STEPS = {"causal": 32, "encoder": 80}  # of cross-entropy
STEPS_OF_CONTRAST = 20
EVALUATIONS = 4
MAX_CHECKPOINT_GAP, MIN_CHECKPOINT_GAP = 50, 10
MOST_TOGETHER = BALANCED_BATCH_SIZE // 2  # labels: a batch holds two examples of each
LONGEST_REHEARSAL = 4  # in runs; a source has more examples than its target, as a rule


@dataclass(frozen=True)
class Plan:
    """The numbers a run follows. Steps count from 1."""

    objective: Literal["cross_entropy", "contrast"]
    label_names: bool | Literal["auto"]
    label_kinship: bool
    examples: int
    epochs: int
    balanced: bool
    batch_size: int
    learning_rate: float
    clip_norm: float | None
    total_steps: int
    warmup_steps: int
    evaluate_every: int
    checkpoint_every: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the examples; the last batch may be smaller."""
        return math.ceil(self.examples / self.batch_size)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up to the peak, then linear decay that would reach 0 one step after the last."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        return self.learning_rate * (self.total_steps - step + 1) / (self.total_steps - self.warmup_steps)

    def batch(self, step: int, seed: int) -> list[int]:
        """Indices of the examples of one step: a function of its arguments, so that a resumed run needs no state."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = epoch_order(self.examples, seed, epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def contrasts(self, labels: Sequence[int]) -> bool:
        """Whether a run compares examples with these labels with each other: some label needs two of them."""
        return self.objective == "contrast" and _repeated(labels)

    def indices(self, step: int, seed: int, labels: Sequence[int]) -> list[int]:
        """The examples of one step: those of `batch`, or as many of each label."""
        if self.balanced and _repeated(labels):
            return balanced_batch(labels, self.batch_size, step, seed, least=2 if self.objective == "contrast" else 1)
        return self.batch(step, seed)

    def evaluates_at(self, step: int) -> bool:
        """Whether the validation set is looked at after `step`."""
        return step == self.total_steps or step % self.evaluate_every == 0

    def saves_at(self, step: int) -> bool:
        """Whether the training state is saved after `step`."""
        return step == self.total_steps or step % self.checkpoint_every == 0


def objective_of(
    spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int
) -> tuple[Literal["cross_entropy", "contrast"], bool | Literal["auto"]]:
    """What the adapter is trained on, and whether names of labels count. Neither is for causal language models.

    Labels that seldom meet in a batch drift together unseen, so more than a batch holds are not compared by default.
    Single examples of their labels have nothing to be compared with, unless names count.
    """
    wanted, names = spec.task.objective, spec.task.label_names
    if kind == "causal":
        return "cross_entropy", False
    if names is False and labels == examples:
        return "cross_entropy", False
    if wanted == "auto" and spec.guided:
        few = labels <= MOST_TOGETHER and spec.optimization.balanced_batches is not False
        return "contrast" if few else "cross_entropy", names
    return ("contrast", names) if wanted == "contrast" else ("cross_entropy", names is True)


def usual_batch_size(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> int:
    """What `batch_size: auto` is for a file of so many examples, which may be fewer.

    Where a language model has many, balanced batches hold as many of each label as fill one of others, two at least.
    """
    if objective_of(spec, kind, examples, labels)[0] == "contrast":
        return BALANCED_BATCH_SIZE
    if not _balanced(spec, kind, labels):
        return BATCH_SIZE
    many = kind == "causal" and labels <= MOST_TOGETHER and examples >= ENOUGH_SHOTS * labels
    return labels * max(2, math.ceil(BATCH_SIZE / labels)) if many else BALANCED_BATCH_SIZE


def make_plan(spec: TrainingSpec, kind: Literal["causal", "encoder"], examples: int, labels: int) -> Plan:
    """Resolve every `auto` of `spec` for `examples` training examples with so many labels on a base model of `kind`.

    Examples of text have no labels: 0. Of several learning rates the plan has the first one.
    """
    wanted = spec.optimization
    objective, label_names = objective_of(spec, kind, examples, labels)
    balanced = objective == "contrast" or _balanced(spec, kind, labels)
    asked = wanted.batch_size
    batch_size = min(usual_batch_size(spec, kind, examples, labels) if asked == "auto" else asked, examples)
    steps_per_epoch = math.ceil(examples / batch_size)
    steps = _steps(kind, objective) * math.sqrt(examples / 32)
    epochs = max(2, round(steps / steps_per_epoch)) if wanted.epochs == "auto" else wanted.epochs
    total = min(epochs * steps_per_epoch, wanted.max_steps or epochs * steps_per_epoch)
    first = wanted.learning_rates[0]
    rate = LEARNING_RATE[kind] if first == "auto" else first
    every = spec.evaluation.every_steps
    evaluate_every = _evaluation_gap(total) if every == "auto" else every
    save = spec.checkpoint.every_steps
    return Plan(
        objective=objective,
        label_names=label_names,
        label_kinship=spec.task.label_kinship,
        examples=examples,
        epochs=math.ceil(total / steps_per_epoch),
        balanced=balanced,
        batch_size=batch_size,
        learning_rate=rate * wanted.multiplier,
        clip_norm=CLIP_NORM[kind] if wanted.clip_norm == "auto" else wanted.clip_norm,
        total_steps=total,
        warmup_steps=round(wanted.warmup_fraction * total) if total > 1 else 0,
        evaluate_every=evaluate_every,
        checkpoint_every=_checkpoint_gap(evaluate_every) if save == "auto" else save,
    )


def _balanced(spec: TrainingSpec, kind: Literal["causal", "encoder"], labels: int) -> bool:
    """Whether every label has its share of each batch, so that no step goes towards the labels that chance drew."""
    wanted = spec.optimization
    if labels < 2 or wanted.balanced_batches != "auto":
        return labels >= 2 and wanted.balanced_batches is True
    most = MOST_TOGETHER if wanted.batch_size == "auto" else wanted.batch_size // 2
    return spec.guided and kind == "causal" and labels <= most


def _repeated(labels: Sequence[int]) -> bool:
    return len(set(labels)) < len(labels)


def _evaluation_gap(total: int) -> int:
    """EVALUATIONS of them, so far apart that a checkpoint can be of each."""
    gap = max(1, math.ceil(total / EVALUATIONS))
    saves = math.ceil(gap / MAX_CHECKPOINT_GAP)
    return saves * math.ceil(gap / saves)


def _checkpoint_gap(evaluate_every: int) -> int:
    """The longest one that meets every evaluation; one that is asked for at an odd distance may go without."""
    if evaluate_every <= MAX_CHECKPOINT_GAP:
        return evaluate_every
    gaps = range(MIN_CHECKPOINT_GAP, MAX_CHECKPOINT_GAP + 1)
    return max((gap for gap in gaps if evaluate_every % gap == 0), default=MAX_CHECKPOINT_GAP)


def rehearsal_plan(
    spec: TrainingSpec, kind: Literal["causal", "encoder"], run: Plan, examples: int, labels: int
) -> Plan:
    """How a source with so many examples and labels is trained on alone before a run with the plan `run`: as any run,
    but not for longer than LONGEST_REHEARSAL of this one would be on the source's objective."""
    plan = make_plan(spec, kind, examples, labels)
    longest = LONGEST_REHEARSAL * run.total_steps * _steps(kind, plan.objective) // _steps(kind, run.objective)
    steps = min(plan.total_steps, longest)
    return replace(plan, total_steps=steps, warmup_steps=round(plan.warmup_steps * steps / plan.total_steps))


def _steps(kind: Literal["causal", "encoder"], objective: Literal["cross_entropy", "contrast"]) -> int:
    return STEPS_OF_CONTRAST if objective == "contrast" else STEPS[kind]
