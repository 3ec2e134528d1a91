"""Figures over folds: those of one set that all examples are in, and the learning rate that they speak for."""

import math

import pytest
import torch

from sgg_core.cross_validation import FoldOutcome, best_rate, cross_validation, pooled
from sgg_core.encoding import Encoded
from sgg_core.evaluation import classifier_evaluation
from sgg_core.figures import Evaluation, Losses

LABELS = ["a", "b", "c"]


def evaluated(scores, gold):
    items = [Encoded(ids=[1], targets=[], label=label, truncated=False) for label in gold]
    return classifier_evaluation(LABELS, items, scores.log_softmax(-1))


def texts(totals, tokens, accuracy):
    losses = Losses(totals=totals, tokens=tokens)
    return Evaluation(loss=sum(totals) / sum(tokens), accuracy=accuracy, examples=len(totals), losses=losses)


def outcome(fold, rate, loss, hits=(True, True)):
    """One that says of two examples of labels 0 and 1 whether it is right."""
    gold = [0, 1]
    logits = torch.zeros(2, 3)
    for place, hit in enumerate(hits):
        logits[place, gold[place] if hit else 2] = 3.0
    found = evaluated(logits, gold).model_copy(update={"loss": loss})
    before = evaluated(torch.tensor([[0.0, 0.0, 1.0]] * 2), gold)
    return FoldOutcome(fold=fold, learning_rate=rate, steps=5, trained_tokens=10, before=before, after=found)


def diverged(fold, rate):
    return FoldOutcome(fold=fold, learning_rate=rate, steps=2, trained_tokens=4)


def test_classifications_of_several_sets_give_the_figures_of_one():
    torch.manual_seed(0)
    scores, gold = torch.randn(11, 3), [0, 1, 2, 2, 1, 0, 0, 1, 1, 2, 0]
    whole = evaluated(scores, gold)
    parts = [evaluated(scores[low:high], gold[low:high]) for low, high in ((0, 4), (4, 5), (5, 11))]
    found = pooled(parts)
    assert found.model_dump(exclude={"loss"}) == whole.model_dump(exclude={"loss"})
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_texts_of_several_sets_count_by_their_tokens():
    found = pooled([texts([3.0, 1.0], [2, 2], 0.5), texts([9.0], [6], 1.0)])
    assert found.loss == pytest.approx(13 / 10) and found.accuracy == pytest.approx((0.5 * 4 + 6) / 10)
    assert found.examples == 3 and found.losses == Losses(totals=[3.0, 1.0, 9.0], tokens=[2, 2, 6])


def test_the_lowest_loss_over_all_folds_is_chosen_and_one_fold_that_diverges_rules_a_rate_out():
    by_rate = [
        [outcome(1, 0.1, 0.1), diverged(2, 0.1)],
        [outcome(1, 0.2, 0.9), outcome(2, 0.2, 0.3)],
        [outcome(1, 0.3, 0.2), outcome(2, 0.3, 0.8)],
        [outcome(1, 0.4, 0.2), outcome(2, 0.4, math.nan)],
    ]
    assert best_rate(by_rate) == 2
    assert best_rate([[diverged(1, 0.1), outcome(2, 0.1, 0.5)]]) is None
    found = cross_validation(by_rate, "a linear probe")
    assert (found.learning_rate, found.loss, found.folds, found.examples) == (0.3, pytest.approx(0.5), 2, 4)
    assert [each.loss is None for each in found.rates] == [True, False, False, True]
    assert "0.1 (diverged), 0.2 (0.600), 0.3 (0.500), 0.4 (diverged)" in found.verdict
    assert "0.3 is kept" in found.verdict and "too good" in found.verdict and "of the list" not in found.verdict


def test_the_verdict_compares_with_what_was_before_and_says_where_a_list_should_go_on():
    right, half = (True, True), (True, False)
    folds = [outcome(number, 0.1, 0.2, right) for number in range(1, 5)] + [outcome(5, 0.1, 0.4, half)]
    found = cross_validation([folds], "a linear probe")
    assert found.accuracy == pytest.approx(0.9) and found.comparison.wins == 9
    assert "training without it, the accuracy was 0.900" in found.verdict
    assert "Training is better than a linear probe on 10 left-out examples (+90.0 points" in found.verdict
    assert "learning rate" not in found.verdict
    for rate, edge in ((0.05, "lowest of the list: a lower one"), (0.2, "highest of the list: a higher one")):
        better = [outcome(number, rate, 0.1) for number in range(1, 6)]
        assert f"{rate:g} is the {edge} may be better" in cross_validation([folds, better], "x").verdict


def test_of_texts_the_loss_is_told():
    of_it = {"learning_rate": 0.1, "steps": 5, "trained_tokens": 10}
    folds = [
        FoldOutcome(fold=n, **of_it, before=texts([4.0] * 4, [2] * 4, 0.2), after=texts([1.0] * 4, [2] * 4, 0.9))
        for n in range(1, 4)
    ]
    found = cross_validation([folds], "the base model")
    assert (found.low, found.high, found.macro_f1) == (None, None, None)
    assert "the loss per token was 0.500." in found.verdict and found.comparison.measure == "loss"
