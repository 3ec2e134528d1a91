"""Figures of a classifier from labels alone: accuracy, macro-F1, per label, confusion matrix. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel


class LabelFigures(BaseModel):
    """One label against the rest. Precision, recall and F1 are 0 where they are undefined."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Confusion(BaseModel):
    """`counts[i][j]`: examples of label i that were predicted as label j."""

    labels: list[str]
    counts: list[list[int]]


class Answers(BaseModel):
    """What a classifier said of each example, in the file's order: label indices, and probabilities from 0 to 1."""

    gold: list[int]
    predicted: list[int]
    gold_probability: list[float]
    confidence: list[float]

    def hits(self) -> list[bool]:
        """Which answers are right."""
        return [truth == guess for truth, guess in zip(self.gold, self.predicted, strict=True)]


class Losses(BaseModel):
    """What completions or chats cost, in the file's order: each one's sum of its tokens' losses, and their number."""

    totals: list[float]
    tokens: list[int]


class Evaluation(BaseModel):
    """Figures on one set. For SFT only `loss` and `accuracy` (over tokens) and `losses` are filled."""

    loss: float
    accuracy: float
    examples: int
    macro_f1: float | None = None
    per_label: list[LabelFigures] | None = None
    confusion: Confusion | None = None
    answers: Answers | None = None
    losses: Losses | None = None


def classification_figures(gold: Sequence[int], predicted: Sequence[int], labels: Sequence[str]) -> Evaluation:
    """All figures but the loss (left 0), from label indices. Macro-F1 is over the labels that occur in `gold`."""
    counts = [[0] * len(labels) for _ in labels]
    for truth, guess in zip(gold, predicted, strict=True):
        counts[truth][guess] += 1
    figures = []
    for index, label in enumerate(labels):
        hits = counts[index][index]
        support = sum(counts[index])
        claimed = sum(row[index] for row in counts)
        precision = hits / claimed if claimed else 0.0
        recall = hits / support if support else 0.0
        f1 = 2 * hits / (support + claimed) if support + claimed else 0.0
        figures.append(LabelFigures(label=label, precision=precision, recall=recall, f1=f1, support=support))
    occurring = [entry.f1 for entry in figures if entry.support]
    return Evaluation(
        loss=0.0,
        accuracy=sum(counts[index][index] for index in range(len(labels))) / len(gold),
        macro_f1=sum(occurring) / len(occurring),
        examples=len(gold),
        per_label=figures,
        confusion=Confusion(labels=list(labels), counts=counts),
    )
