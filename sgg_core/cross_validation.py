"""What folds say: figures on all training examples, each asked of a run that has not seen it. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from sgg_core.evidence import Comparison, by_example, compared
from sgg_core.figures import Answers, Evaluation, Losses, classification_figures
from sgg_core.significance import wilson_interval
from sgg_core.spread import beyond_the_list


class FoldOutcome(BaseModel):
    """What one fold's run said of the examples that it left out, before its first step and after its last one."""

    fold: int
    learning_rate: float
    steps: int
    trained_tokens: int
    before: Evaluation | None = None
    after: Evaluation | None = None
    """None where it diverged."""

    @property
    def diverged(self) -> bool:
        """Whether there is no figure of it."""
        return self.after is None


class RateScore(BaseModel):
    """One learning rate over all folds. Figures are None where a fold diverged."""

    learning_rate: float
    loss: float | None
    accuracy: float | None


class CrossValidation(BaseModel):
    """Figures of the learning rate that is kept, over all training examples, each left out of the run that was asked.

    `accuracy` is over tokens unless the kind is classification, which has `macro_f1` and the bounds `low` and `high` of
    the accuracy's 95 % interval (Wilson's), too. Examples share most of what was trained on, so that the interval and
    that of the comparison are somewhat too narrow. `comparison` is with the state before training.
    """

    folds: int
    examples: int
    learning_rate: float
    loss: float
    accuracy: float
    macro_f1: float | None
    low: float | None
    high: float | None
    rates: list[RateScore]
    comparison: Comparison | None
    verdict: str


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """The figures of several sets as those of one, in the sets' order. All know each example."""
    answers = [part.answers for part in parts if part.answers is not None]
    if answers:
        confusion = parts[0].confusion
        assert confusion is not None
        together = Answers(
            gold=[each for part in answers for each in part.gold],
            predicted=[each for part in answers for each in part.predicted],
            gold_probability=[each for part in answers for each in part.gold_probability],
            confidence=[each for part in answers for each in part.confidence],
        )
        figures = classification_figures(together.gold, together.predicted, confusion.labels)
        loss = sum(part.loss * part.examples for part in parts) / figures.examples
        return figures.model_copy(update={"loss": loss, "answers": together})
    losses = [part.losses for part in parts if part.losses is not None]
    tokens = [sum(part.tokens) for part in losses]
    return Evaluation(
        loss=sum(sum(part.totals) for part in losses) / sum(tokens),
        accuracy=sum(part.accuracy * size for part, size in zip(parts, tokens, strict=True)) / sum(tokens),
        examples=sum(part.examples for part in parts),
        losses=Losses(
            totals=[each for part in losses for each in part.totals],
            tokens=[each for part in losses for each in part.tokens],
        ),
    )


def best_rate(by_rate: Sequence[Sequence[FoldOutcome]]) -> int | None:
    """Number of the learning rate of the lowest loss over all folds; None where each has a fold that diverged."""
    losses = {number: score.loss for number, score in enumerate(map(_score, by_rate)) if score.loss is not None}
    return min(losses, key=losses.__getitem__, default=None)


def cross_validation(by_rate: Sequence[Sequence[FoldOutcome]], before: str) -> CrossValidation:
    """Figures over the folds of each learning rate, one of which at least has no fold that diverged.

    `before` puts in words what answered before training.
    """
    number = best_rate(by_rate)
    assert number is not None
    kept = by_rate[number]
    figures = _after(kept)
    assert figures is not None
    earlier = [outcome.before for outcome in kept if outcome.before is not None]
    comparison = None
    if len(earlier) == len(kept):
        comparison = compared(by_example(pooled(earlier)), by_example(figures), before, "training", "left-out")
    low, high = (None, None) if figures.answers is None else wilson_interval(figures.accuracy, figures.examples)
    scores = [_score(outcomes) for outcomes in by_rate]
    sentences = [_of_folds(len(kept), figures, low, high), comparison.verdict if comparison else "", _of_rates(scores)]
    return CrossValidation(
        folds=len(kept),
        examples=figures.examples,
        learning_rate=kept[0].learning_rate,
        loss=figures.loss,
        accuracy=figures.accuracy,
        macro_f1=figures.macro_f1,
        low=low,
        high=high,
        rates=scores,
        comparison=comparison,
        verdict=" ".join(sentence for sentence in sentences if sentence),
    )


def _after(outcomes: Sequence[FoldOutcome]) -> Evaluation | None:
    """Figures over all folds of one learning rate, unless one diverged."""
    found = [outcome.after for outcome in outcomes if outcome.after is not None]
    return pooled(found) if len(found) == len(outcomes) else None


def _score(outcomes: Sequence[FoldOutcome]) -> RateScore:
    figures = _after(outcomes)
    known = figures is not None and math.isfinite(figures.loss)
    loss, accuracy = (figures.loss, figures.accuracy) if figures is not None and known else (None, None)
    return RateScore(learning_rate=outcomes[0].learning_rate, loss=loss, accuracy=accuracy)


def _of_folds(folds: int, figures: Evaluation, low: float | None, high: float | None) -> str:
    asked = (
        f"Over {folds} folds, with each of the {figures.examples} training examples judged after training without it"
    )
    if figures.answers is None:
        return f"{asked}, the loss per token was {figures.loss:.3f}."
    return f"{asked}, the accuracy was {figures.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f})."


def _of_rates(scores: Sequence[RateScore]) -> str:
    """Which learning rate was chosen, and whether the list should go on beyond it."""
    if len(scores) == 1:
        return ""
    ordered = sorted(scores, key=lambda score: score.learning_rate)
    told = ", ".join(
        f"{score.learning_rate:g} ({'diverged' if score.loss is None else f'{score.loss:.3f}'})" for score in ordered
    )
    kept = min((score for score in scores if score.loss is not None), key=lambda score: score.loss or 0.0)
    rates = [score.learning_rate for score in scores]
    said = f"Loss by learning rate: {told}. {kept.learning_rate:g} is kept; because these figures chose it, they are "
    return f"{said}slightly too good.{beyond_the_list(rates, kept.learning_rate)}"
