"""Running a task over held-out examples, without gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sgg_core.dropout import without_dropout
from sgg_core.encoding import Encoded
from sgg_core.figures import Answers, Evaluation, Losses, classification_figures
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.tasks.text import TextTask

FEWEST_PROBES, MOST_PROBES = 2, 8
PROBE_TOKENS = 256  # of all together, if the fewest need no more


def passes(task: Task, items: Sequence[Encoded], *, scoring: bool = False) -> Iterator[list[int]]:
    """Indices of the items of one pass after the other. Before each the job breathes, so with gradients switched on."""
    for group in task.passes(items, scoring=scoring):
        task.base.breathe()
        yield group


def log_probabilities(task: LabelWords | PooledHead, items: Sequence[Encoded]) -> Tensor:
    """(N, L) log p(label) on the CPU, in the items' order, without gradient."""
    result = torch.empty(len(items), len(task.labels))
    with without_dropout(task.base.model):
        for group in passes(task, items, scoring=True):
            with torch.inference_mode():
                result[group] = task.log_probabilities([items[index] for index in group]).float()
    return result


def features(task: PooledHead, items: Sequence[Encoded]) -> Tensor:
    """(N, d) unit-length features of encoded examples as the encoder is now, without gradient."""
    result = torch.empty(len(items), task.base.hidden_size, device=task.base.device)
    with without_dropout(task.base.model):
        for group in passes(task, items, scoring=True):
            with torch.no_grad():
                result[group] = task.features([items[index] for index in group])
    return result


def evaluate_classifier(task: LabelWords | PooledHead, items: Sequence[Encoded]) -> Evaluation:
    """Figures of `task` on encoded examples with known labels."""
    return classifier_evaluation(task.labels, items, log_probabilities(task, items))


def classifier_evaluation(labels: Sequence[str], items: Sequence[Encoded], scores: Tensor) -> Evaluation:
    """Figures of (N, L) log-probabilities of encoded examples with known labels."""
    gold = torch.tensor([item.label for item in items])
    best, predicted = scores.max(-1)
    of_gold = scores[torch.arange(len(items)), gold]
    figures = classification_figures(gold.tolist(), predicted.tolist(), labels)
    answers = Answers(
        gold=gold.tolist(),
        predicted=predicted.tolist(),
        gold_probability=of_gold.exp().tolist(),
        confidence=best.exp().tolist(),
    )
    return figures.model_copy(update={"loss": float(-of_gold.mean()), "answers": answers})


def evaluate_text(task: TextTask, items: Sequence[Encoded]) -> Evaluation:
    """Loss and token accuracy of supervised fine-tuning on held-out completions or chats."""
    totals, correct = [0.0] * len(items), 0
    with without_dropout(task.base.model):
        for group in passes(task, items):
            some = [items[index] for index in group]
            with torch.no_grad():
                scores, hits = task.token_scores(some)
            correct += int(hits.sum())
            parts = torch.split(scores.double(), [len(item.targets) for item in some])
            for index, own in zip(group, parts, strict=True):
                totals[index] = float(own.sum())
    tokens = [len(item.targets) for item in items]
    losses = Losses(totals=totals, tokens=tokens)
    units = sum(tokens)
    return Evaluation(loss=sum(totals) / units, accuracy=correct / units, examples=len(items), losses=losses)


def evaluate(task: Task, items: Sequence[Encoded]) -> Evaluation:
    """Figures of a task on encoded examples with known answers."""
    if isinstance(task, LabelWords | PooledHead):
        return evaluate_classifier(task, items)
    assert isinstance(task, TextTask)
    return evaluate_text(task, items)


def probes(items: Sequence[Encoded]) -> list[Encoded]:
    """Some of the items to ask an adapter about, the shortest ones: it costs as little as may be, on any data."""
    found: list[Encoded] = []
    for item in sorted(items, key=lambda item: len(item.ids))[:MOST_PROBES]:
        if len(found) >= FEWEST_PROBES and sum(len(probe.ids) for probe in [*found, item]) > PROBE_TOKENS:
            break
        found.append(item)
    return found


def probe_values(task: Task, items: Sequence[Encoded]) -> Tensor:
    """What an adapter answers, as numbers: (N, L) log-probabilities, or (N, 1) mean losses for SFT."""
    if isinstance(task, LabelWords | PooledHead):
        return log_probabilities(task, items)
    assert isinstance(task, TextTask)
    losses = evaluate_text(task, items).losses
    assert losses is not None
    return torch.tensor(losses.totals)[:, None] / torch.tensor(losses.tokens)[:, None]
