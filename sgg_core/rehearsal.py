"""Does a source task help? Measured on the training examples of the target while nothing has been fitted to them.

Cosines of training gradients cannot tell: once the training examples are memorized, their gradient turns against even
the most helpful source. So the adapter is first trained on the source alone (`plan.rehearsal_plan`), and the target's
examples are asked before and after: a label-word or text task for its loss on them, which owes nothing to
them; an encoder, whose head needs labels, for the cross-validated loss of a linear probe. Confidence that merely grew
or shrank is no gain: the temperature that suits the answers best is taken out of them first. What a source that helps
has taught is where the run begins; else everything is put back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Verdict:
    """Mean held-out loss of the target's examples before and after a rehearsal on a source alone."""

    before: float
    after: float

    @property
    def helps(self) -> bool:
        """Whether the source is worth being used."""
        return self.after < self.before


def rehearse(
    target: TaskData,
    source: Objective,
    weight_decay: float,
    go_on: Callable[[], bool],
    names: Sequence[Encoded] = (),
) -> Verdict | None:
    """Train on `source` alone, and put everything back unless it helped the target; None if `go_on` said no.

    `names` of labels are what the target's examples are judged by beside each other, where they count as examples.
    """
    parameters = Weights(list(source.parameters.values()), target.task.base.adapter)
    start = [block.detach().clone() for block in parameters.blocks]
    before = held_out_loss(target.task, target.items, names)
    optimizer = torch.optim.AdamW(parameters.blocks, lr=source.plan.learning_rate, weight_decay=weight_decay)
    verdict = None
    try:
        for step in range(1, source.plan.total_steps + 1):
            if not go_on():
                return None
            clipped_step(optimizer, parameters, source.batch(step).gradient().gradient, source.plan, step)
        verdict = Verdict(before, held_out_loss(target.task, target.items, names))
        return verdict
    finally:
        if verdict is None or not verdict.helps:
            with torch.no_grad():
                torch._foreach_copy_(list(parameters.blocks), start)


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
