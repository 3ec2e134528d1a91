"""Which labels are akin: against loops over pairs, and where kinship does not count."""

from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sgg_core.tasks.kinship import FEWEST, akin, kinship_of, negated, told_apart


def units(count, seed, width=4):
    raw = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(raw, dim=-1)


def mean_of(rows, labels, wanted, without=None):
    total = sum(row for n, (row, own) in enumerate(zip(rows, labels, strict=True)) if own == wanted and n != without)
    return total / total.norm()


def naive_akin(names, named, labels):
    mean = [mean_of(names, named, label) for label in range(labels)]
    cosine = {(a, b): float(mean[a] @ mean[b]) for a in range(labels) for b in range(labels) if a != b}
    usual = fmean(cosine.values())
    return [
        [1.0 if a == b else max(0.0, (cosine[a, b] - usual) / (1 - usual)) for b in range(labels)]
        for a in range(labels)
    ]


@given(st.integers(3, 6), st.integers(0, 99))
def test_akin_are_labels_whose_names_are_nearer_than_is_usual(labels, seed):
    named = [*range(labels), *range(labels)]
    names = units(2 * labels, seed)
    found = akin(names, torch.tensor(named), labels)
    assert torch.allclose(found, torch.tensor(naive_akin(names, named, labels), dtype=found.dtype), atol=1e-9)
    assert found.min() >= 0 and found.max() <= 1


def naive_told_apart(rows, labels, examples):
    right = 0
    for n in range(examples):
        own = float(rows[n] @ mean_of(rows, labels, labels[n], without=n))
        right += all(own > float(rows[n] @ mean_of(rows, labels, each)) for each in {*labels} - {labels[n]})
    return right / examples


@given(st.lists(st.integers(0, 2), min_size=3, max_size=12), st.integers(0, 99))
def test_told_apart_are_examples_nearest_to_their_own_label_without_them(gold, seed):
    rows, named = units(len(gold) + 6, seed), [0, 1, 2, 0, 1, 2]
    found = told_apart(rows[: len(gold)], torch.tensor(gold), rows[len(gold) :], torch.tensor(named), 3)
    assert found == pytest.approx(naive_told_apart(rows, [*gold, *named], len(gold)))


NAMES = functional.normalize(torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.2, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
LABELS = ("bad", "terrible", "good")


def kinship(rows, gold, names=NAMES, labels=LABELS):
    return kinship_of(rows, gold, names, torch.arange(len(labels)), labels)


def examples(apart, each=FEWEST):
    """Examples of three labels: each at the name of its own, or of every label the same."""
    gold = torch.arange(3).repeat(each)
    return NAMES[gold if apart else torch.arange(3 * each) // 3 % 3], gold


def test_kinship_counts_where_examples_are_mixed_and_not_where_they_are_told_apart():
    mixed = kinship(*examples(apart=False))
    assert torch.equal(mixed, akin(NAMES, torch.arange(3), 3))
    assert mixed[0, 1] > 0.5 and mixed[0, 2] == mixed[1, 2] == 0
    assert torch.equal(kinship(*examples(apart=True)), torch.eye(3))


@pytest.mark.parametrize(("own", "counts"), [(9, True), (11, False)])
def test_kinship_begins_where_most_examples_are_mistaken(own, counts):
    """Of 20 examples of each label so many lie at its name, and the others at those of the other two."""
    names = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0], [0.0, 0.0, 1.0]])
    places = [[label] * own + [(label + 1 + n % 2) % 3 for n in range(20 - own)] for label in range(3)]
    rows, gold = names[torch.tensor(places).flatten()], torch.arange(3).repeat_interleave(20)
    assert told_apart(rows, gold, names, torch.arange(3), 3) == pytest.approx(own / 20)
    assert torch.equal(kinship(rows, gold, names), torch.eye(3)) != counts


def test_few_examples_and_two_labels_have_no_kinship():
    assert torch.equal(kinship(*examples(False, each=FEWEST - 1)), torch.eye(3))
    rows, gold = examples(apart=False)
    one_less = torch.ones(len(gold), dtype=torch.bool)
    one_less[-1] = False
    assert torch.equal(kinship(rows[one_less], gold[one_less]), torch.eye(3))
    two = gold < 2
    assert torch.equal(kinship(rows[two], gold[two], NAMES[:2], LABELS[:2]), torch.eye(2))


@pytest.mark.parametrize("labels", [("safe", "unsafe", "other"), ("toxic", "Not toxic", "other"), ("a", "non-a", "b")])
def test_a_label_and_its_negation_are_not_akin(labels):
    assert negated(labels).tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert torch.equal(kinship(*examples(apart=False), labels=labels), torch.eye(3))


def test_labels_that_only_continue_each_other_are_no_negations():
    assert not negated(("positive", "very positive", "neutral", "united", "ted")).any()


def test_names_that_look_the_same_say_nothing():
    same = NAMES[[0, 0, 2]]
    found = akin(same, torch.arange(3), 3)
    assert torch.equal(found, torch.eye(3))
    assert torch.equal(akin(NAMES[[0, 0, 0]], torch.arange(3), 3), torch.eye(3))
    partly = akin(torch.cat([NAMES, NAMES[:1]]), torch.arange(4), 4)
    assert partly[0, 3] == 0 and partly[0, 1] > 0.5
