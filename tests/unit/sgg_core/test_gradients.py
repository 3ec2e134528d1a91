"""Lists of tensors behave as the one long vector they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.gradients import combined, cosine, inner, norm, scaled, unit

numbers = st.floats(-1e3, 1e3, width=32)
vectors = st.lists(numbers, min_size=7, max_size=7)
factors = st.floats(-10, 10)


def parts(values):
    flat = torch.tensor(values, dtype=torch.float64)
    return [flat[:1].clone(), flat[1:7].reshape(2, 3).clone()]


def flat(gradient):
    return np.concatenate([part.double().numpy().ravel() for part in gradient])


@given(vectors, vectors)
def test_inner_products_norms_and_cosines_are_those_of_the_whole_vector(a, b):
    assert inner(parts(a), parts(b)) == pytest.approx(np.dot(a, b), rel=1e-9, abs=1e-6)
    assert norm(parts(a)) == pytest.approx(np.linalg.norm(a), rel=1e-9)
    product = np.linalg.norm(a) * np.linalg.norm(b)
    expected = np.dot(a, b) / product if product >= 1e-12 else 0.0
    assert cosine(parts(a), parts(b)) == pytest.approx(expected, abs=1e-9)
    assert -1.0 <= cosine(parts(a), parts(b)) <= 1.0


@given(vectors, st.floats(1e-3, 1e3))
def test_a_cosine_does_not_see_lengths(a, factor):
    if norm(parts(a)) > 1e-3:
        assert cosine(parts(a), scaled(parts(a), factor)) == pytest.approx(1.0)
        assert cosine(parts(a), scaled(parts(a), -factor)) == pytest.approx(-1.0)


@given(st.lists(st.tuples(factors, vectors), min_size=1, max_size=4), factors)
def test_combinations_are_linear(terms, factor):
    if all(coefficient == 0.0 for coefficient, _ in terms):
        return
    expected = sum(coefficient * np.array(vector) for coefficient, vector in terms)
    assert flat(combined([(c, parts(vector)) for c, vector in terms])) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert flat(scaled(parts(terms[0][1]), factor)) == pytest.approx(factor * np.array(terms[0][1]))


@given(vectors)
def test_a_unit_vector_has_length_one_and_the_old_direction(a):
    found = unit(parts(a))
    if np.linalg.norm(a) < 1e-12:
        assert found is None
    else:
        assert norm(found) == pytest.approx(1.0)
        assert flat(found) * np.linalg.norm(a) == pytest.approx(np.array(a), rel=1e-9)


def test_zero_has_no_direction_and_no_angle():
    zero, other = parts([0.0] * 7), parts([1.0] * 7)
    assert unit(zero) is None
    assert cosine(zero, other) == cosine(other, zero) == 0.0


def test_results_are_new_tensors_and_inputs_stay_as_they_were():
    a, b = parts([1.0] * 7), parts([2.0] * 7)
    results = [scaled(a, 1.0), combined([(1.0, a), (1.0, b)]), combined([(1.0, a)]), unit(a)]
    for result in results:
        for part in result:
            part.zero_()
    assert flat(a).tolist() == [1.0] * 7 and flat(b).tolist() == [2.0] * 7


def test_a_term_of_weight_zero_is_left_out_even_where_it_is_not_finite():
    assert flat(combined([(0.0, parts([float("inf")] * 7)), (2.0, parts([1.0] * 7))])).tolist() == [2.0] * 7


def test_sums_of_small_float32_parts_are_not_lost_beside_large_ones():
    a = [torch.tensor([1e4]), torch.full((10_000,), 1e-2)]
    assert inner(a, a) == pytest.approx(1e8 + 10_000 * float(torch.tensor(1e-2)) ** 2, rel=1e-12)


def test_vectors_of_different_parameters_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        inner(parts([1.0] * 7), parts([1.0] * 7)[:1])
