"""Source alignment: the mixed gradient never turns against the target."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgg_core.gradients import combined, cosine, inner, norm
from sgg_core.guidance import alignment

numbers = st.floats(-100, 100, allow_nan=False, width=32)
vectors = st.lists(numbers, min_size=6, max_size=6).map(
    lambda values: [torch.tensor(values[:4], dtype=torch.float64), torch.tensor(values[4:], dtype=torch.float64)]
)


@given(vectors, vectors, st.floats(-1, 1), st.floats(0, 2))
@settings(deadline=None, max_examples=200)
def test_the_mixture_descends_the_target_and_respects_the_cap(target, source, wanted, cap):
    share = alignment.share(target, source, [(0, 1)], [alignment.SmoothedCosine()], wanted, cap)
    square = inner(target, target)
    slack = 1e-9 * (1 + square)
    assert share.weight >= 0.0
    assert inner(combined([(1.0, target), (1.0, share.added)]), target) >= square - slack
    assert norm(share.added) <= cap * norm(target) + slack


@given(vectors, vectors)
@settings(deadline=None)
def test_only_the_conflicting_part_is_removed(target, source):
    helpful = alignment.without_conflict(source, target)
    if inner(source, target) >= 0:
        assert all(torch.equal(a, b) for a, b in zip(helpful, source, strict=True))
    elif norm(target) > 1e-3:
        assert abs(cosine(helpful, target)) * norm(helpful) < 1e-6
        removed = [b - a for a, b in zip(helpful, source, strict=True)]
        assert abs(cosine(removed, target)) == pytest.approx(1.0) or norm(removed) < 1e-6


def test_a_weight_is_what_is_wanted_within_zero_and_the_cap():
    assert alignment.weight(-0.3, 1.0, 1.0, 0.5) == 0.0
    assert alignment.weight(0.3, 1.0, 1.0, 0.5) == 0.3
    assert alignment.weight(0.9, 1.0, 1.0, 0.5) == 0.5
    assert alignment.weight(1.0, 4.0, 1.0, 0.5) == 0.125
    assert alignment.weight(1.0, 4.0, 0.0, math.inf) == 1.0
    assert alignment.weight(0.9, 0.0, 1.0, 0.5) == 0.0


@given(vectors, vectors, st.sampled_from([None, 0.0, 0.7, 1.0]), st.sampled_from([0.3, math.inf]), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_share_is_that_of_its_parts_one_by_one_and_never_against_the_target(target, source, wanted, cap, by_part):
    parts = [[0], [1]] if by_part else [[0, 1]]
    shares = alignment.share(target, source, parts, [alignment.SmoothedCosine() for _ in parts], wanted, cap)
    assert shares.cosine == cosine(target, source)
    helpful_square = 0.0
    for part in parts:
        g, g_s = ([vector[index] for index in part] for vector in (target, source))
        helpful = alignment.without_conflict(g_s, g)
        factor = alignment.weight(cosine(g, g_s) if wanted is None else wanted, norm(helpful), norm(g), cap)
        for index, tensor in zip(part, helpful, strict=True):
            assert torch.allclose(shares.added[index], factor * tensor)
        assert inner(g, [shares.added[index] for index in part]) >= -1e-9 * (1 + inner(g, g))
        helpful_square += inner(helpful, helpful)
    assert shares.weight * helpful_square**0.5 == pytest.approx(norm(shares.added), abs=1e-9)


def along_the_last_axes(*pairs):
    return [[torch.tensor([0.0] * 4).double(), torch.tensor(pair).double()] for pair in pairs]


@given(st.lists(vectors, min_size=2, max_size=4))
@example([[torch.tensor([length], dtype=torch.float64)] for length in (1.0, -2.0)])
@example(along_the_last_axes((0.0, 2.0), (0.0, 2.0), (3.0, -1.0), (-3.0, 0.0)))
@settings(deadline=None, max_examples=60)
def test_tasks_of_equal_rank_are_combined_as_torchjd_does_and_without_conflict(gradients):
    from torchjd.aggregation import UPGrad

    lengths = torch.tensor([norm(gradient) for gradient in gradients], dtype=torch.float64)
    if lengths.min() < 1e-3:
        return
    jacobian = torch.stack([torch.cat(gradient) for gradient in gradients])
    directions = jacobian / lengths[:, None]  # torchjd regularizes by the lengths' squares, which leaves small ones out
    alike = torch.tensor(alignment.equal_rank_weights([[direction] for direction in directions]), dtype=torch.float64)
    assert torch.allclose(alike @ directions, len(gradients) * UPGrad()(directions), rtol=1e-6, atol=1e-6)

    weights = alignment.equal_rank_weights(gradients)
    found = torch.tensor(weights, dtype=torch.float64) @ jacobian
    # torchjd adds 1e-4 of the trace to the diagonal: an inner product may fall short by that, times its weight
    shortfall = 1e-4 * len(gradients) * lengths**2 * torch.tensor(weights)
    assert (jacobian @ found >= -1.01 * shortfall - 1e-9).all()
    if (jacobian @ jacobian.T).min() >= 0:
        assert weights == pytest.approx([1.0] * len(gradients), abs=1e-3)


@pytest.mark.parametrize("lengths", [(0.005, 0.005), (0.005, 1.0), (1e-6, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_small_gradient_is_not_turned_against_either(lengths):
    target, source = torch.tensor([lengths[0], 0.0]).double(), lengths[1] * torch.tensor([-0.8, 0.6]).double()
    own, other = alignment.equal_rank_weights([[target], [source]])
    found = own * target + other * source
    assert min(cosine([found], [each]) for each in (target, source)) >= -1e-3  # torchjd regularizes by so much


@given(vectors, vectors)
@settings(deadline=None, max_examples=100)
def test_our_rule_and_torchjd_agree_on_what_is_no_conflict(target, source):
    """Two gradients do not conflict exactly where PCGrad and UPGrad leave both as they are; then ours does too."""
    from torchjd.aggregation import PCGradWeighting

    product, lengths = inner(target, source), norm(target) * norm(source)
    if min(norm(target), norm(source)) < 1e-2 or abs(product) < 1e-3 * lengths:
        return
    gramian = torch.tensor([[inner(a, b) for b in (target, source)] for a in (target, source)], dtype=torch.float64)
    left_alone = [
        torch.allclose(PCGradWeighting()(gramian), torch.ones(2, dtype=torch.float64)),
        alignment.equal_rank_weights([target, source]) == pytest.approx([1.0, 1.0], abs=1e-3),
        all(torch.equal(a, b) for a, b in zip(alignment.without_conflict(source, target), source, strict=True)),
    ]
    assert left_alone == [product > 0] * 3
    share = alignment.share(target, source, [(0, 1)], [alignment.SmoothedCosine()], 1.0, math.inf)
    ours = combined([(1.0, target), (1.0, share.added)])
    of_target = gramian[0, 0] if product < 0 else gramian[0, 0] + gramian[0, 1]
    assert inner(ours, target) == pytest.approx(float(of_target), rel=1e-6, abs=1e-6)


def test_the_smoothed_cosine_is_bias_corrected():
    smooth = alignment.SmoothedCosine(0.9)
    assert smooth.update(0.4) == pytest.approx(0.4)
    measured = [0.4, -0.2, 0.6, 0.1]
    for count in range(2, 5):
        weights = [0.9 ** (count - 1 - age) for age in range(count)]
        expected = sum(w * c for w, c in zip(weights, measured[:count], strict=True)) / sum(weights)
        assert smooth.update(measured[count - 1]) == pytest.approx(expected)
