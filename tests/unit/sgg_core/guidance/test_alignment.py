"""Source alignment: the mixed gradient never turns against the target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgg_core.gradients import cosine, inner, norm
from sgg_core.guidance import alignment

numbers = st.floats(-100, 100, allow_nan=False, width=32)
vectors = st.lists(numbers, min_size=6, max_size=6).map(
    lambda values: [torch.tensor(values[:4], dtype=torch.float64), torch.tensor(values[4:], dtype=torch.float64)]
)


@given(vectors, vectors, st.floats(-1, 1), st.floats(0, 2), st.booleans())
@settings(deadline=None, max_examples=200)
def test_the_mixture_descends_the_target_and_respects_the_cap(target, source, smoothed, cap, gated):
    helpful = alignment.without_conflict(source, target)
    weight = alignment.weight(smoothed, norm(helpful), norm(target), cap, gated)
    mixture = alignment.mixed(target, helpful, weight) if weight else target
    square = inner(target, target)
    slack = 1e-9 * (1 + square)
    assert weight >= 0.0
    assert inner(mixture, target) >= square - slack
    assert weight * norm(helpful) <= cap * norm(target) + slack


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


def test_the_gate_closes_on_disagreement_and_the_fixed_rule_takes_the_cap():
    assert alignment.weight(-0.3, 1.0, 1.0, 0.5, gated=True) == 0.0
    assert alignment.weight(0.3, 1.0, 1.0, 0.5, gated=True) == 0.3
    assert alignment.weight(0.9, 1.0, 1.0, 0.5, gated=True) == 0.5
    assert alignment.weight(-0.3, 4.0, 1.0, 0.5, gated=False) == 0.125
    assert alignment.weight(-0.3, 0.1, 1.0, 0.5, gated=False) == 1.0
    assert alignment.weight(0.9, 0.0, 1.0, 0.5, gated=False) == 0.0


def test_the_smoothed_cosine_is_bias_corrected():
    smooth = alignment.SmoothedCosine(0.9)
    assert smooth.update(0.4) == pytest.approx(0.4)
    measured = [0.4, -0.2, 0.6, 0.1]
    for count in range(2, 5):
        weights = [0.9 ** (count - 1 - age) for age in range(count)]
        expected = sum(w * c for w, c in zip(weights, measured[:count], strict=True)) / sum(weights)
        assert smooth.update(measured[count - 1]) == pytest.approx(expected)


def test_the_regularizers_coefficients_pull_towards_the_source():
    assert alignment.coefficients(0.25) == (0.25, -0.25)
