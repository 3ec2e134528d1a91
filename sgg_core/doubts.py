"""Which training examples may have the wrong label, judged by the frozen base model inside the support set.

Four views of each example, none of which has seen its label; each becomes a score in standard deviations, and their sum
ranks the examples. Weights and layers were chosen on AG News and MR, see benchmarks/doubts.py and docs/results/.

- Probes: ridge regression on the states that the answer is predicted from, after 80 % and 100 % of the layers (of an
  encoder on its pooled features in the last third), each left-one-out in closed form: how much more the other examples
  speak for another label than for the given one.
- The base model's own word: its log-probabilities of the labels, less the log of what it says on average (contextual
  calibration: Zhao et al., ICML 2021). An encoder says how like the text is to sentences that name the labels; it is
  not heard where that tells the given labels no better than always the most frequent one, as with names like "A".
- The gradient: cosine of the example's gradient in a new last layer with the mean one of the other examples of its
  label. At the first step that is the cosine of centred features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgg_core.dropout import without_dropout
from sgg_core.encoding import Encoded
from sgg_core.evaluation import features, passes
from sgg_core.evidence import Doubt
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead

MOST_EXAMPLES = 2000  # the probes invert a matrix of this size, and few-shot files are far smaller
DEPTHS = {"causal": (0.8, 1.0), "encoder": (0.67, 0.83, 1.0)}
NAMING = ("This is about {}.", "It is {}.", "This is {}.", "It was {}.")
LIKENESS = 20.0  # of a cosine, as sentence encoders are trained with
PROBES_WEIGHT = 2.0  # of all of them together
PENALTY = 1.0
GRADIENT_WEIGHT = 0.5
AGAINST = 0.0  # a cosine below this is told as a gradient that points away
EPSILON = 1e-9


@dataclass(frozen=True)
class Views:
    """What was seen of N examples: probe scores (N, L), the base model's scores (N, L) or None, agreement (N,).

    With `by_name` the base model's scores are an encoder's.
    """

    probes: tuple[Tensor, ...]
    own_word: Tensor | None
    agreement: Tensor
    by_name: bool = False


def doubts(task: LabelWords | PooledHead, items: Sequence[Encoded], lines: Sequence[int]) -> list[Doubt]:
    """All examples, the most suspicious first. The adapter has to be off the base model."""
    gold = torch.tensor([item.label for item in items])
    views = look(*read(task, items), gold, len(task.labels), by_name=isinstance(task, PooledHead))
    return told(views, gold, task.labels, lines)


def read(task: LabelWords | PooledHead, items: Sequence[Encoded]) -> tuple[list[Tensor], Tensor]:
    """Features (N, d) on the CPU, one set for each depth; and log p(label) (N, L)."""
    depths = DEPTHS[task.base.entry.kind]
    states = [torch.empty(len(items), task.base.hidden_size) for _ in depths]
    spoken = torch.empty(len(items), len(task.labels))
    with without_dropout(task.base.model):
        for group in passes(task, items, scoring=True):
            some = [items[index] for index in group]
            with torch.no_grad():
                if isinstance(task, LabelWords):
                    parts, words = task.look(some, depths)
                    spoken[group] = words.float()
                else:
                    parts = task.look(some, depths)
            for whole, part in zip(states, parts, strict=True):
                whole[group] = part.float().cpu()
        if isinstance(task, PooledHead):
            spoken = named(task, states[-1])
    return states, spoken


def named(task: PooledHead, seen: Tensor) -> Tensor:
    """(N, L) log p(label) by how like the features `seen` (N, d) are to those of sentences with the labels' names."""
    sentences = [ClassificationExample(naming.format(label), label) for label in task.labels for naming in NAMING]
    likeness = seen @ features(task, task.encode(sentences)).cpu().T
    mean = likeness.view(len(seen), len(task.labels), len(NAMING)).mean(-1)
    return (LIKENESS * mean).log_softmax(-1)


def look(states: Sequence[Tensor], spoken: Tensor | None, gold: Tensor, labels: int, *, by_name: bool = False) -> Views:
    """The views, from features (N, d) of one or several layers and from log-probabilities (N, L).

    With `by_name` these are an encoder's, which are left out where they know nothing.
    """
    features = [_centred(each) for each in states]
    own_word = None if spoken is None else spoken.double() - spoken.double().exp().mean(0).log()
    if by_name and own_word is not None and not _knows(own_word, gold, labels):
        own_word = None
    return Views(
        probes=tuple(left_one_out(each, gold, labels) for each in features),
        own_word=own_word,
        agreement=agreement(features[0], gold),
        by_name=by_name,
    )


def _knows(scores: Tensor, gold: Tensor, labels: int) -> bool:
    """Whether the best label is the given one more often, by a standard error, than the most frequent one is."""
    right = float((scores.argmax(-1) == gold).double().mean())
    frequent = float(torch.bincount(gold, minlength=labels).max()) / len(gold)
    return right > frequent + math.sqrt(frequent * (1 - frequent) / len(gold))


def scores(views: Views, gold: Tensor) -> dict[str, Tensor]:
    """(N,) scores of each view, in standard deviations over the examples, times its weight."""
    weight = PROBES_WEIGHT / len(views.probes)
    found = {f"probe {number}": weight * _standardized(_margin(each, gold)) for number, each in enumerate(views.probes)}
    if views.own_word is not None:
        found["own word"] = _standardized(_margin(views.own_word, gold))
    found["gradient"] = GRADIENT_WEIGHT * _standardized(-views.agreement)
    return found


def left_one_out(features: Tensor, gold: Tensor, labels: int, penalty: float = PENALTY) -> Tensor:
    """(N, L) scores of labels by ridge regression on the other examples.

    The intercept is not penalized. With the hat matrix H the left-out residual is the fitted one over 1 - H_ii, so that
    nothing is fitted again (Allen's PRESS).
    """
    target = torch.nn.functional.one_hot(gold, labels).double()
    size = len(gold)
    features = features - features.mean(0)
    kernel = features @ features.T
    hat = kernel @ torch.linalg.inv(kernel + penalty * torch.eye(size, dtype=torch.float64))
    prior = target.mean(0)
    fitted = hat @ (target - prior) + prior
    leverage = (hat.diagonal() + 1 / size).clamp(max=1 - 1e-6)
    left_out: Tensor = target - (target - fitted) / (1 - leverage)[:, None]
    return left_out


def agreement(features: Tensor, gold: Tensor) -> Tensor:
    """(N,) cosine with the mean of the other examples of the same label; 0 for the only one of a label."""
    same = (gold[:, None] == gold[None, :]).double().fill_diagonal_(0.0)
    others = same @ features
    return torch.nn.functional.cosine_similarity(features, others, dim=-1, eps=EPSILON)


def told(views: Views, gold: Tensor, labels: Sequence[str], lines: Sequence[int]) -> list[Doubt]:
    """The examples with their suspicion in words, the most suspicious first; single ones of a label last."""
    total = torch.stack(list(scores(views, gold).values())).sum(0)
    alone = torch.tensor([Counter(gold.tolist())[label] == 1 for label in gold.tolist()])
    scaled = _standardized(total)
    predicted = torch.stack(list(views.probes)).mean(0).argmax(-1)
    order = sorted(range(len(gold)), key=lambda index: (bool(alone[index]), -float(total[index])))
    found = []
    for index in order:
        label, other = int(gold[index]), int(predicted[index])
        cosine = float(views.agreement[index])
        word = None if views.own_word is None else int(views.own_word[index].argmax())
        if alone[index]:
            reason = "It is the only example of its label, so no other example can confirm or contradict it."
        else:
            reason = _reason(labels, label, other, _word_for(word, label, labels, views.by_name), cosine)
        found.append(
            Doubt(
                line=lines[index],
                label=labels[label],
                suspicion=0.0 if alone[index] else round(_share_below(float(scaled[index])), 4),
                predicted_label=labels[other],
                gradient_agreement=None if alone[index] else round(cosine, 4),
                reason=reason,
            )
        )
    return found


def _word_for(word: int | None, label: int, labels: Sequence[str], by_name: bool) -> str | None:
    """What the base model's own word says against a label, if it does."""
    if word is None or word == label:
        return None
    said = "finds the text more like the name" if by_name else "itself would say"
    return f"the base model {said} {labels[word]!r}"


def _reason(labels: Sequence[str], label: int, probed: int, word: str | None, cosine: float) -> str:
    against = []
    if probed != label:
        against.append(f"the other examples speak for {labels[probed]!r}")
    if word is not None:
        against.append(word)
    if cosine < AGAINST:
        against.append(
            f"its gradient points away from that of the other examples of {labels[label]!r} (cosine {cosine:.2f})"
        )
    if not against:
        return f"Nothing speaks against {labels[label]!r}."
    listed = against[0] if len(against) == 1 else f"{', '.join(against[:-1])} and {against[-1]}"
    return f"{listed[0].upper()}{listed[1:]}."


def _centred(features: Tensor) -> Tensor:
    features = features.double()
    return torch.nn.functional.normalize(features - features.mean(0), dim=-1)


def _margin(scores: Tensor, gold: Tensor) -> Tensor:
    """(N,) how much higher the best other label scores than the given one."""
    own = scores.gather(1, gold[:, None])[:, 0]
    others = scores.scatter(1, gold[:, None], -math.inf)
    return torch.sub(others.max(-1).values, own)


def _standardized(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std(correction=0) + EPSILON)


def _share_below(deviations: float) -> float:
    """The share of a normal distribution below so many standard deviations."""
    return 0.5 * (1 + math.erf(deviations / math.sqrt(2)))
