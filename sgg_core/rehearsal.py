"""Does a source task help? Measured on the training examples of the target while nothing has been fitted to them.

Cosines of training gradients cannot tell: once the training examples are memorized, their gradient turns against even
the most helpful source. So the adapter is first trained on the source alone (`plan.rehearsal_plan`), and the target's
examples are asked before and after: an encoder, whose head needs labels, for the cross-validated loss of a linear
probe; a language model for its loss on them, which owes nothing to them.

For a language model that alone would be too kind: any source teaches it to answer with a label at all, which the
target's few examples teach as well. So where this loss fell, the target is also trained on each half of its examples,
from the start and from what the source taught, and asked about the other half: only a source that lowers that, too,
helps.

Confidence that merely grew or shrank is no gain: the temperature that suits the answers best is taken out of them
first. What a source that helps has taught is where the run begins; else everything is put back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core.clipped_step import clipped_step
from sgg_core.encoding import Encoded
from sgg_core.evaluation import evaluate, features, log_probabilities
from sgg_core.objective import Objective
from sgg_core.task_data import TaskData
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead, logistic_regression
from sgg_core.tasks.task import Task
from sgg_core.weights import Weights

FOLDS = 8

Training = Callable[[list[Encoded]], Objective]  # how a run would be trained on some of the target's examples


@dataclass(frozen=True)
class Verdict:
    """Mean held-out loss of the target's examples before and after a rehearsal on a source alone.

    `learned` is the same where the target was trained on the other half of its examples, from the start and from what
    the source taught; None where that was not asked.
    """

    before: float
    after: float
    learned: tuple[float, float] | None = None

    @property
    def helps(self) -> bool:
        """Whether the source is worth being used."""
        return self.after < self.before and (self.learned is None or self.learned[1] < self.learned[0])


class Rehearsals:
    """Judges one source after the other; the next one begins with what those that helped have taught.

    `names` of labels are what the target's examples are judged by beside each other, where they count as examples.
    With `training` a source that seems to help has to do so for the target's own training, too.
    """

    def __init__(
        self,
        target: TaskData,
        weight_decay: float,
        go_on: Callable[[], bool],
        names: Sequence[Encoded] = (),
        training: Training | None = None,
    ) -> None:
        self._target, self._names, self._training = target, names, training
        self._weight_decay, self._go_on = weight_decay, go_on
        self._before: float | None = None  # of the weights as they are, until a source changes them
        self._untaught: float | None = None

    def judge(self, source: Objective) -> Verdict | None:
        """Train on `source` alone, and put everything back unless it helped the target; None if `go_on` said no."""
        target = self._target
        parameters = Weights(list(source.parameters.values()), target.task.base.adapter)
        stage = _Stage(parameters, self._weight_decay, self._go_on)
        start = stage.weights()
        if self._before is None:
            self._before = held_out_loss(target.task, target.items, self._names)
        verdict = None
        try:
            if not stage.train(source):
                return None
            verdict = Verdict(self._before, held_out_loss(target.task, target.items, self._names))
            if verdict.helps and self._training is not None:
                verdict = self._asked_again(verdict, stage, start, self._training)
            return verdict
        finally:
            if verdict is None or not verdict.helps:
                stage.put(start)
            else:
                self._before, self._untaught = verdict.after, verdict.learned[1] if verdict.learned else None

    def _asked_again(self, verdict: Verdict, stage: _Stage, start: list[Tensor], training: Training) -> Verdict | None:
        """The verdict with what the target's own training makes of `start`, and of the weights as they are now."""
        taught = stage.weights()
        if self._untaught is None:
            self._untaught = _learned_loss(self._target, stage, start, training)
        learned = None if self._untaught is None else _learned_loss(self._target, stage, taught, training)
        stage.put(taught)
        if self._untaught is None or learned is None:
            return None
        return replace(verdict, learned=(self._untaught, learned))


class _Stage:
    """The parameters of a rehearsal, which are trained as plain LoRA and put back."""

    def __init__(self, parameters: Weights, weight_decay: float, go_on: Callable[[], bool]) -> None:
        self._parameters, self._weight_decay, self._go_on = parameters, weight_decay, go_on

    def weights(self) -> list[Tensor]:
        """A copy of them as they are."""
        return [block.detach().clone() for block in self._parameters.blocks]

    def put(self, weights: list[Tensor]) -> None:
        """Make them what they were when `weights` was copied."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._parameters.blocks), weights)

    def train(self, objective: Objective) -> bool:
        """Train on `objective` for as long as its plan says; False if `go_on` said no."""
        plan = objective.plan
        optimizer = torch.optim.AdamW(self._parameters.blocks, lr=plan.learning_rate, weight_decay=self._weight_decay)
        for step in range(1, plan.total_steps + 1):
            if not self._go_on():
                return False
            clipped_step(optimizer, self._parameters, objective.batch(step).gradient().gradient, plan, step)
        return True


def _learned_loss(target: TaskData, stage: _Stage, start: list[Tensor], training: Training) -> float | None:
    """Mean loss on each half of the target's examples after training on the other one; None if that was stopped."""
    losses = []
    for kept, left_out in permutations(halves(target.items)):
        stage.put(start)
        if not stage.train(training(kept)):
            return None
        losses.append(held_out_loss(target.task, left_out))
    return fmean(losses)


def halves(items: Sequence[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """The examples in two parts, each with every label's share."""
    order = sorted(items, key=lambda item: item.label)
    return order[::2], order[1::2]


def can_be_halved(items: Sequence[Encoded]) -> bool:
    """Whether most examples have another one of their label, or of a text, which may be in the other half."""
    return sum(count for count in Counter(item.label for item in items).values() if count > 1) > len(items) / 2


def can_judge(task: Task, items: list[Encoded], names: Sequence[Encoded] = ()) -> bool:
    """Whether there are enough examples to judge a source on: a probe needs two of each label, or names of them."""
    return not isinstance(task, PooledHead) or bool(names) or min(Counter(item.label for item in items).values()) > 1


def held_out_loss(task: Task, items: list[Encoded], names: Sequence[Encoded] = ()) -> float:
    """Mean loss of the present adapter on examples that it was not trained on."""
    if isinstance(task, PooledHead):
        scores = cross_validated_scores(task, items, names)
    elif isinstance(task, LabelWords):
        scores = log_probabilities(task, items)
    else:
        return evaluate(task, items).loss
    return _best_scaled_loss(scores, torch.tensor([item.label for item in items]))


def cross_validated_scores(task: PooledHead, items: list[Encoded], names: Sequence[Encoded] = ()) -> Tensor:
    """(N, L) logits, each from a probe of the features that has not seen the example, in label-balanced folds.

    Every probe has seen the `names`.
    """
    found = features(task, [*items, *names]).cpu()
    gold = torch.tensor([item.label for item in (*items, *names)])
    order = sorted(range(len(items)), key=lambda index: (items[index].label, index))
    folds = min(FOLDS, max(Counter(item.label for item in items).values()))
    scores = torch.empty(len(items), len(task.labels))
    for fold in range(folds):
        left_out = order[fold::folds]
        kept = sorted(set(range(len(gold))) - set(left_out))
        probe = nn.utils.skip_init(nn.Linear, task.base.hidden_size, len(task.labels))  # type: ignore[no-untyped-call]
        nn.init.zeros_(probe.weight)
        nn.init.zeros_(probe.bias)
        logistic_regression(probe, found[kept], gold[kept])
        with torch.no_grad():
            scores[left_out] = probe(found[left_out])
    return scores


def _best_scaled_loss(scores: Tensor, gold: Tensor) -> float:
    """Least mean cross-entropy of `scores` over all temperatures in 1/100..100, by golden-section search.

    It is convex in the inverse temperature, so unimodal in its logarithm.
    """
    ratio = (5**0.5 - 1) / 2
    low, high = -4.6, 4.6

    def loss(exponent: float) -> float:
        return float(functional.cross_entropy(scores.double() * torch.tensor(exponent).exp(), gold))

    for _ in range(60):
        inner = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, inner[1]) if loss(inner[0]) < loss(inner[1]) else (inner[0], high)
    return loss((low + high) / 2)
