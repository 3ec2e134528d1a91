"""What a validation file says of an adapter: compared, calibrated, example by example, and in words. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel

from sgg_core.examples import ExampleSet
from sgg_core.figures import Answers, Evaluation, Losses
from sgg_core.significance import PairedDifference, paired_difference, paired_loss_difference
from sgg_core.telemetry import Direction, SourceAlignment, Stability

BINS = 10
SHOWN_HARDEST = 10
STRAIGHT, WINDING = 0.7, 0.5  # shares of a path's length: from the one on its ends are far apart, below the other near
# Factors by which a gradient's norm changes from step to step: with the one even a change of 2.5 deviations is small,
# and beyond the other there is nothing steady about it, though no step be abnormal beside such changes.
CALM, WILD = math.log(1.2), math.log(2)


Measure = Literal["accuracy", "loss"]


class Comparison(BaseModel):
    """The adapter against `than` on the same examples, of which it got `wins` right that the other got wrong.

    Differences are of accuracy, -1 to 1, or of the loss per token (in nats; below 0 is better), where examples are won
    by the lower loss. `low` and `high` bound the 95 % interval (bootstrap over examples), `p_value` is of the exact
    sign test, or the sign-flip test of losses.
    """

    measure: Measure = "accuracy"
    than: str
    examples: int
    wins: int
    losses: int
    difference: float
    low: float
    high: float
    p_value: float
    verdict: str


class Baseline(BaseModel):
    """What the adapter was measured against on the same examples, and what came of it.

    `name` is "zero_shot" (the base model as it comes), "linear_probe" (on an encoder's frozen features), "start" (the
    adapter that the run began with), "in_context" (the base model, shown training examples in its prompt) or
    "plain_lora" (plain LoRA by its own defaults, with the same seed).
    """

    name: Literal["zero_shot", "linear_probe", "start", "in_context", "plain_lora"]
    accuracy: float
    loss: float
    comparison: Comparison


class Bin(BaseModel):
    """Answers of like confidence: how sure they were on average, and how often right."""

    confidence: float
    accuracy: float
    examples: int


class Calibration(BaseModel):
    """Whether probabilities mean what they say.

    `expected_error` is the mean distance of confidence and accuracy over ten bins (ECE; Naeini et al., AAAI 2015).
    """

    expected_error: float
    bins: list[Bin]


class HardExample(BaseModel):
    """One validation example and what the adapter thought of its true label.

    It is named by its line: adapters are passed on, and their reports should not pass on the data.
    """

    line: int
    label: str
    predicted: str
    probability: float


class Doubt(BaseModel):
    """One training example, by its line: how suspicious its label is (0 to 1) and why.

    `gradient_agreement` is a cosine, None for the only example of a label.
    """

    line: int
    label: str
    suspicion: float
    predicted_label: str
    gradient_agreement: float | None
    reason: str


def answer_lines(
    before: Answers | None, after: Answers, labels: Sequence[str], validation: ExampleSet
) -> Iterator[dict[str, str | int | float]]:
    """What was said of each validation example, with the answer before training where there is one."""
    for index, line in enumerate(validation.lines):
        row: dict[str, str | int | float] = {
            "line": line,
            "label": labels[after.gold[index]],
            "predicted": labels[after.predicted[index]],
            "probability": after.gold_probability[index],
            "confidence": after.confidence[index],
        }
        if before is not None:
            row["predicted_before"] = labels[before.predicted[index]]
            row["probability_before"] = before.gold_probability[index]
        yield row


def loss_lines(before: Losses | None, after: Losses, validation: ExampleSet) -> Iterator[dict[str, str | int | float]]:
    """What each completion or chat cost a token, with the loss before training where there is one."""
    for index, line in enumerate(validation.lines):
        tokens = after.tokens[index]
        row: dict[str, str | int | float] = {"line": line, "loss": after.totals[index] / tokens, "tokens": tokens}
        if before is not None:
            row["loss_before"] = before.totals[index] / tokens
        yield row


def compared(
    before: Answers | Losses, after: Answers | Losses, than: str, of: str = "the adapter", items: str = "validation"
) -> Comparison:
    """What was said `after` against what was said `before`, on the same examples in the same order.

    The verdict calls them `of` and `than`, and the examples `items` examples.
    """
    if isinstance(before, Answers) and isinstance(after, Answers):
        measure: Measure = "accuracy"
        found = paired_difference(after.hits(), before.hits())
    else:
        assert isinstance(before, Losses) and isinstance(after, Losses)
        measure, found = "loss", paired_loss_difference(after.totals, before.totals, after.tokens)
    return Comparison(
        measure=measure,
        than=than,
        examples=found.items,
        wins=found.wins,
        losses=found.losses,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        verdict=difference_in_words(found, of, than, items, measure),
    )


def difference_in_words(
    found: PairedDifference, one: str, other: str, items: str = "validation", measure: Measure = "accuracy"
) -> str:
    """What a paired difference says, as a sentence about `one` and `other`."""
    if measure == "accuracy":
        better = found.difference > 0
        figures = (
            f"{100 * found.difference:+.1f} points, 95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        )
    else:
        better = found.difference < 0
        figures = f"loss per token {found.difference:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}"
    if not (found.wins or found.losses):
        figures = "every result is the same"
    if not found.shown:
        if found.low > 0 or found.high < 0:  # the bootstrap is too sure of itself where few examples differ
            figures += (
                f"; better on {found.wins} and worse on {found.losses}, "
                f"which happens by chance alone {100 * found.p_value:.0f} % of the time"
            )
        return f"No difference between {one} and {other} can be shown with {found.items} {items} examples ({figures})."
    word = "better" if better else "worse"
    return f"{one[:1].upper()}{one[1:]} is {word} than {other} on {found.items} {items} examples ({figures})."


def against(name: str, before: Evaluation, after: Evaluation, than: str) -> Baseline:
    """The figures `after` against those of a baseline, which `than` puts in words. Both know each example."""
    comparison = compared(by_example(before), by_example(after), than)
    return Baseline.model_validate(
        {"name": name, "accuracy": before.accuracy, "loss": before.loss, "comparison": comparison}
    )


def by_example(evaluation: Evaluation) -> Answers | Losses:
    """What an evaluation knows of each example; it has to know it."""
    found = evaluation.answers or evaluation.losses
    assert found is not None
    return found


def calibration(answers: Answers) -> Calibration:
    """Confidence against accuracy in ten bins of equal width."""
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for confidence, hit in zip(answers.confidence, answers.hits(), strict=True):
        groups[min(int(confidence * BINS), BINS - 1)].append((confidence, hit))
    bins = [
        Bin(
            confidence=sum(confidence for confidence, _ in group) / len(group),
            accuracy=sum(hit for _, hit in group) / len(group),
            examples=len(group),
        )
        for group in groups
        if group
    ]
    total = len(answers.gold)
    return Calibration(
        expected_error=sum(abs(one.confidence - one.accuracy) * one.examples for one in bins) / total, bins=bins
    )


def hardest(answers: Answers, labels: Sequence[str], validation: ExampleSet) -> list[HardExample]:
    """The examples whose true label the adapter believed least, worst first."""
    order = sorted(range(len(answers.gold)), key=answers.gold_probability.__getitem__)[:SHOWN_HARDEST]
    return [
        HardExample(
            line=validation.lines[index],
            label=labels[answers.gold[index]],
            predicted=labels[answers.predicted[index]],
            probability=answers.gold_probability[index],
        )
        for index in order
    ]


def _way(straight: float) -> str:
    """How straight the way was whose ends are so far apart, as a share of its length."""
    if straight < WINDING:
        return "in a winding way"
    return "almost straight" if straight >= STRAIGHT else "fairly straight"


def _steady(stability: Stability, deviation: float) -> bool:
    """Whether the gradient was steady. What is abnormal is so for this run alone, and one such step is no pattern."""
    if not CALM < deviation <= WILD:
        return deviation <= CALM
    abnormal = stability.abnormal_steps > 1 and stability.abnormal_share > 0.05
    clipped = stability.clipped_steps > 1 and stability.clipped_share > 0.1
    return not (abnormal or clipped)


def explained(stability: Stability, direction: Direction, source: SourceAlignment | None) -> list[str]:
    """The gradient's figures in sentences for someone who does not read curves."""
    said = []
    if stability.log_norm_change_std is not None:
        steady = _steady(stability, stability.log_norm_change_std)
        said.append(
            f"The gradient was {'steady' if steady else 'unsteady'}: from one step to the next its norm changed by a "
            f"factor of about {math.exp(stability.log_norm_change_std):.1f}, and "
            f"{100 * stability.clipped_share:.0f} % of the steps were clipped as abnormal."
            + ("" if steady else " A lower learning rate or a larger batch would calm it.")
        )
    if direction.path_efficiency is not None:
        straight = direction.path_efficiency
        said.append(
            f"The weights moved {_way(straight)}: "
            f"they ended {100 * straight:.0f} % of the path's length from their start."
            + ("" if straight >= WINDING else " A lower learning rate may help.")
        )
    if source is not None:
        against = f"pointed against the target in {100 * source.conflict_share:.0f} % of the steps"
        helps = source.conflict_share < 0.5
        said.append(
            f"The sources {against} (mean cosine {source.cosine_mean:+.2f}): "
            f"{'they pull the same way' if helps else 'they look unrelated; compare with a run without them'}."
        )
    return said
