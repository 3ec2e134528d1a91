"""Verdicts, calibration and hard examples from answers alone."""

import json

import pytest

from sgg_core.evidence import against, answer_lines, calibration, compared, explained, hardest, loss_lines
from sgg_core.examples import parse_examples
from sgg_core.figures import Answers, Evaluation, Losses
from sgg_core.telemetry import Direction, SourceAlignment, Stability

LABELS = ("no", "yes")


def answers(gold, predicted, confidence=0.9):
    sure = [confidence] * len(gold)
    of_gold = [confidence if truth == guess else 1 - confidence for truth, guess in zip(gold, predicted, strict=True)]
    return Answers(gold=gold, predicted=predicted, gold_probability=of_gold, confidence=sure)


def validation(count):
    rows = [{"text": f"number {number}", "label": LABELS[number % 2]} for number in range(count)]
    return parse_examples("\n".join(map(json.dumps, rows)).encode(), "valid.jsonl")


def test_a_difference_that_shows_is_named_with_its_interval_whichever_way_it_goes():
    gold = [0, 1] * 20
    right, poor = answers(gold, gold), answers(gold, [0] * 40)
    better, worse = compared(poor, right, "the base model"), compared(right, poor, "the base model")
    assert (better.wins, better.losses, better.difference) == (20, 0, 0.5)
    assert better.verdict.startswith(
        "The adapter is better than the base model on 40 validation examples (+50.0 points"
    )
    assert worse.verdict.startswith("The adapter is worse than the base model on 40 validation examples (-50.0")


def test_few_examples_show_no_difference():
    gold = [0, 1] * 5
    found = compared(answers(gold, [0] * 10), answers(gold, gold), "the base model")
    assert found.difference == 0.5 and found.p_value > 0.05
    assert found.verdict.startswith(
        "No difference between the adapter and the base model can be shown with 10 validation examples (+50.0"
    )
    assert found.low > 0, "the interval alone would say otherwise"
    assert found.verdict.endswith("better on 5 and worse on 0, which happens by chance alone 6 % of the time).")


def test_an_interval_that_holds_zero_needs_no_excuse():
    gold = [0, 1] * 5
    found = compared(answers(gold, [1, *gold[1:]]), answers(gold, [*gold[:9], 0]), "the base model")
    assert found.difference == 0 and "chance" not in found.verdict


def test_texts_are_compared_by_their_loss_per_token():
    tokens = [4] * 12
    poor, good = Losses(totals=[8.0] * 12, tokens=tokens), Losses(totals=[6.0] * 12, tokens=tokens)
    better = compared(poor, good, "the base model")
    assert (better.measure, better.wins, better.difference) == ("loss", 12, -0.5)
    assert better.verdict == (
        "The adapter is better than the base model on 12 validation examples "
        "(loss per token -0.500, 95 % interval -0.500 to -0.500)."
    )
    assert compared(good, poor, "the base model").verdict.startswith("The adapter is worse than the base model on 12")
    few = compared(Losses(totals=[8.0] * 4, tokens=[4] * 4), Losses(totals=[6.0] * 4, tokens=[4] * 4), "it")
    assert few.verdict.startswith("No difference between the adapter and it can be shown with 4 validation examples")


def test_a_baseline_of_texts_keeps_its_loss_and_what_came_of_it():
    before, after = (
        Evaluation(loss=loss, accuracy=0.5, examples=8, losses=Losses(totals=[2 * loss] * 8, tokens=[2] * 8))
        for loss in (2.0, 1.5)
    )
    found = against("plain_lora", before, after, "plain LoRA")
    assert (found.loss, found.comparison.measure, found.comparison.difference) == (2.0, "loss", -0.5)


def test_each_text_has_its_line_and_its_loss_per_token_before_and_after():
    before, after = Losses(totals=[4.0, 3.0], tokens=[2, 3]), Losses(totals=[1.0, 3.0], tokens=[2, 3])
    assert list(loss_lines(before, after, validation(2))) == [
        {"line": 1, "loss": 0.5, "tokens": 2, "loss_before": 2.0},
        {"line": 2, "loss": 1.0, "tokens": 3, "loss_before": 1.0},
    ]
    assert "loss_before" not in next(loss_lines(None, after, validation(2)))


def test_calibration_is_the_distance_of_confidence_and_accuracy():
    gold = [0] * 10
    exact = calibration(answers(gold, [0] * 9 + [1], confidence=0.9))
    assert exact.expected_error == pytest.approx(0.0)
    boastful = calibration(answers(gold, [0] * 5 + [1] * 5, confidence=0.9))
    assert boastful.expected_error == pytest.approx(0.4)
    assert [(one.confidence, one.accuracy, one.examples) for one in boastful.bins] == [(pytest.approx(0.9), 0.5, 10)]


def test_full_confidence_has_a_bin():
    assert calibration(answers([0], [0], confidence=1.0)).bins[0].confidence == 1.0


def test_the_hardest_examples_come_worst_first_by_their_lines():
    given = Answers(gold=[0, 1, 0], predicted=[0, 0, 1], gold_probability=[0.8, 0.1, 0.4], confidence=[0.8, 0.9, 0.6])
    found = hardest(given, LABELS, validation(3))
    assert [(one.line, one.label, one.predicted) for one in found] == [
        (2, "yes", "no"),
        (3, "no", "yes"),
        (1, "no", "no"),
    ]


def test_each_example_has_its_line_and_the_answers_before_and_after():
    rows = list(answer_lines(answers([0, 1], [1, 1]), answers([0, 1], [0, 1]), LABELS, validation(2)))
    assert [(row["line"], row["label"], row["predicted"], row["predicted_before"]) for row in rows] == [
        (1, "no", "no", "yes"),
        (2, "yes", "yes", "yes"),
    ]
    assert "predicted_before" not in next(answer_lines(None, answers([0], [0]), LABELS, validation(1)))


def test_telemetry_in_words_follows_the_figures():
    calm = Stability(log_norm_change_std=0.1, abnormal_share=0.0, clipped_share=0.0, gradient_norm_mean=1.0)
    wild = Stability(log_norm_change_std=1.5, abnormal_share=0.2, clipped_share=0.3, gradient_norm_mean=1.0)
    straight = Direction(batch_size=8, reference_cosine_mean=0.5, path_efficiency=0.7)
    [first, second] = explained(calm, straight, None)
    assert "steady" in first and "factor of about 1.1" in first and "straight" in second
    helping = SourceAlignment(cosine_mean=0.3, conflict_share=0.1, weight_mean=0.3)
    hurting = SourceAlignment(cosine_mean=-0.3, conflict_share=0.9, weight_mean=0.0)
    assert "unsteady" in explained(wild, straight, None)[0]
    assert "same way" in explained(calm, straight, helping)[-1]
    assert "unrelated" in explained(calm, straight, hurting)[-1]
    nothing = Stability(log_norm_change_std=None, abnormal_share=0.0, clipped_share=0.0, gradient_norm_mean=1.0)
    assert explained(nothing, Direction(batch_size=8, reference_cosine_mean=None, path_efficiency=None), None) == []


@pytest.mark.parametrize(
    ("deviation", "abnormal", "clipped", "steady"),
    [
        (1.51, 0, 0, False),  # plain LoRA with 32 examples: none of its steps is abnormal beside such changes
        (0.7, 0, 0, False),
        (0.68, 0, 0, True),
        (0.09, 1, 0, True),  # SGG on an encoder: one of 13 changes beyond 2.5 deviations, a factor of 1.25
        (0.12, 0, 3, True),
        (0.4, 1, 1, True),
        (0.4, 2, 0, False),
        (0.4, 0, 2, False),
    ],
)
def test_a_gradient_is_steady_by_how_much_its_norm_changes_and_not_by_one_odd_step(
    deviation, abnormal, clipped, steady
):
    stability = Stability(
        log_norm_change_std=deviation, abnormal_steps=abnormal, abnormal_share=abnormal / 13,
        clipped_steps=clipped, clipped_share=clipped / 14, gradient_norm_mean=1.0,
    )  # fmt: skip
    (told,) = explained(stability, Direction(batch_size=8, reference_cosine_mean=None, path_efficiency=None), None)
    assert told.startswith(f"The gradient was {'steady' if steady else 'unsteady'}: ")
    assert ("A lower learning rate or a larger batch would calm it." in told) == (not steady)
