"""The contrastive loss against a loop over pairs, and the run that is trained on it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sgg_core.encoding import Encoded
from sgg_core.gradients import norm
from sgg_core.guidance.passes import TaskBatch
from sgg_core.lora_layers import lora
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks.contrast import TEMPERATURE, Contrast, anchors, neighbour_hits, supervised_contrast
from sgg_core.tasks.pooled_head import PooledHead

labelled = st.lists(st.integers(0, 3), min_size=2, max_size=12)


def features_of(labels, seed=0, width=5):
    raw = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(raw, dim=-1)


def kinship_of(*pairs):
    """Of four labels, of which these pairs are akin."""
    kinship = torch.eye(4, dtype=torch.float64)
    for one, other, share in pairs:
        kinship[one, other] = kinship[other, one] = share
    return kinship


NONE = kinship_of()


def naive(features, labels, kinship, temperature):
    total = 0.0
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        near = {j: math.exp(float(features[i] @ features[j]) / temperature) for j in others}
        if label in [labels[j] for j in others]:
            share = {j: float(kinship[label, labels[j]]) for j in others}
            told = sum(share[j] * math.log(near[j] / sum(near.values())) for j in others)
            total -= told / sum(share.values())
    return total


@given(labelled, st.floats(0.0, 1.0), st.floats(0.1, 2.0))
def test_the_loss_is_that_of_a_loop_over_pairs(labels, share, temperature):
    features, kinship = features_of(labels), kinship_of((0, 1, share), (1, 3, share / 2))
    found = supervised_contrast(features, torch.tensor(labels), kinship, temperature)
    assert float(found) == pytest.approx(naive(features, labels, kinship, temperature), abs=1e-9)


@given(labelled)
def test_an_example_without_company_neither_counts_nor_makes_the_gradient_infinite(labels):
    features = features_of(labels).requires_grad_()
    supervised_contrast(features, torch.tensor(labels), NONE, 0.2).backward()
    assert torch.isfinite(features.grad).all()
    alone = [i for i, label in enumerate(labels) if labels.count(label) == 1]
    assert anchors(torch.tensor(labels)).tolist() == [i for i in range(len(labels)) if i not in alone]


def test_near_examples_of_one_label_cost_less_than_far_ones():
    angles = torch.tensor([0.0, 0.1, 3.0, 3.1])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    together, crossed = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    costs = [supervised_contrast(features, labels, torch.eye(2), 0.2) for labels in (together, crossed)]
    assert costs[0] < 0.01 * costs[1]
    assert (neighbour_hits(features, together), neighbour_hits(features, crossed)) == (4, 0)


def test_labels_that_are_akin_may_lie_side_by_side_and_others_may_not():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 3.0, 3.1], dtype=torch.float64)
    features = torch.stack([angles.cos(), angles.sin()], 1)
    akin_together, akin_apart = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 2, 2, 1, 1])

    def costs(kinship):
        return [float(supervised_contrast(features, each, kinship, 0.2)) for each in (akin_together, akin_apart)]

    near, far = costs(kinship_of((0, 1, 0.5)))
    assert near < 0.5 * far
    assert costs(NONE) == pytest.approx([costs(NONE)[0]] * 2)


def test_a_batch_is_one_pass_so_that_every_example_meets_every_other(sharp):
    base = sharp("encoder")
    task = Contrast(PooledHead(base, ("bad", "good"), 512, seed=0))
    texts = [("word " * (40 * number + 1), "good" if number % 2 else "bad") for number in range(6)]
    items = task.encode([ClassificationExample(*row) for row in texts])
    assert list(task.passes(items)) == [list(range(6))]
    found = task.loss(items)
    with torch.no_grad():
        apart = torch.cat([task.pooled.features([item]) for item in items])
    expected = supervised_contrast(apart, torch.tensor([item.label for item in items]), torch.eye(2), TEMPERATURE)
    assert float(found.total) == pytest.approx(float(expected), rel=1e-5)
    assert (found.units, task.units([Encoded((1,), 0), Encoded((1,), 1)])) == (6, 0)


@pytest.fixture
def batch_of(encoder):
    """Makes a batch with as many examples of each label as it is told, over the weights of one adapter."""
    with lora(encoder, LoraSpec(), 0) as adapted:

        def make(*counts):
            labels = "abc"[: len(counts)]
            task = Contrast(PooledHead(encoder, tuple(labels), 512, seed=0))
            rows = [
                (f"word {n} of {label}", label)
                for label, count in zip(labels, counts, strict=True)
                for n in range(count)
            ]
            items = task.encode([ClassificationExample(*row) for row in rows])
            return TaskBatch(task, items, [each for each in adapted.parameters() if each.requires_grad], 0)

        yield make


@pytest.mark.parametrize("counts", [(2, 2), (3, 2), (4, 2)])
def test_a_batch_whose_halves_could_compare_less_is_not_halved(batch_of, counts):
    assert batch_of(*counts).halves() is None


def test_halves_of_a_batch_with_four_of_each_label_learn(batch_of):
    (share, first), (rest, second) = batch_of(4, 4).halves()
    assert share == rest == 0.5
    assert min(norm(half.gradient().gradient) for half in (first, second)) > 0


def test_a_batch_that_compares_nothing_has_no_loss_and_no_gradient(batch_of):
    found = batch_of(1, 1).gradient()
    assert (found.loss, found.accuracy, norm(found.gradient)) == (0.0, 0.0, 0.0)


def test_drift_is_of_who_is_near_whom_and_needs_no_head(batch_of):
    batch = batch_of(2, 2)
    log_shares = batch.task.log_probabilities(batch.items)
    assert log_shares.shape == (4, 3)
    assert torch.allclose(log_shares.exp().sum(1), torch.ones(4))
    origin = [parameter.detach() + 0.01 for parameter in batch.parameters]
    drift = batch.drift(origin)
    with torch.no_grad():
        for parameter in batch.task.pooled.head().parameters():
            parameter.add_(1.0)
    assert norm(drift) > 0
    assert all(torch.equal(*pair) for pair in zip(drift, batch.drift(origin), strict=True))
