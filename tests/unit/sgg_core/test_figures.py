"""Figures of a classifier against a second implementation that goes through the pairs."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.figures import classification_figures

LABELS = ("a", "b", "c", "d")
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def figures_of(answers):
    return classification_figures([gold for gold, _ in answers], [guess for _, guess in answers], LABELS)


def share(part, whole):
    return Fraction(part, whole) if whole else Fraction(0)


def naive_label(answers, label):
    both = sum(gold == label and guess == label for gold, guess in answers)
    precision = share(both, sum(guess == label for _, guess in answers))
    recall = share(both, sum(gold == label for gold, _ in answers))
    f1 = share(2 * precision * recall, precision + recall)
    return precision, recall, f1, sum(gold == label for gold, _ in answers)


@given(pairs)
def test_every_figure_agrees_with_its_definition(answers):
    figures = figures_of(answers)
    assert figures.examples == len(answers)
    assert figures.accuracy == pytest.approx(sum(gold == guess for gold, guess in answers) / len(answers))
    for index, found in enumerate(figures.per_label):
        precision, recall, f1, support = naive_label(answers, index)
        assert (found.label, found.support) == (LABELS[index], support)
        assert (found.precision, found.recall, found.f1) == pytest.approx((float(precision), float(recall), float(f1)))
    occurring = {gold for gold, _ in answers}
    mean = sum(naive_label(answers, label)[2] for label in occurring) / len(occurring)
    assert figures.macro_f1 == pytest.approx(float(mean))


@given(pairs)
def test_the_confusion_matrix_counts_every_pair_with_gold_labels_as_rows(answers):
    counted = Counter(answers)
    confusion = figures_of(answers).confusion
    assert confusion.labels == list(LABELS)
    assert confusion.counts == [[counted[gold, guess] for guess in range(4)] for gold in range(4)]


@given(pairs, st.permutations(range(4)))
def test_renaming_the_labels_changes_no_total(answers, order):
    renamed = [(order[gold], order[guess]) for gold, guess in answers]
    before, after = figures_of(answers), figures_of(renamed)
    assert after.accuracy == before.accuracy
    assert after.macro_f1 == pytest.approx(before.macro_f1)


def test_a_label_that_is_never_right_or_never_asked_has_figures_of_zero_and_only_the_asked_one_counts():
    figures = figures_of([(0, 0), (1, 2)])
    zero = [(entry.label, entry.precision, entry.recall, entry.f1) for entry in figures.per_label[1:]]
    assert zero == [("b", 0, 0, 0), ("c", 0, 0, 0), ("d", 0, 0, 0)]
    assert figures.macro_f1 == 0.5


def test_every_gold_label_needs_a_prediction():
    with pytest.raises(ValueError, match="shorter"):
        classification_figures([0, 1], [0], LABELS)
