"""The direction regularizer's reference: a moving average that knows nothing of the current step."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgg_core.gradients import inner, norm, unit
from sgg_core.guidance.direction import EmaReference

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
vectors = st.lists(numbers, min_size=4, max_size=4).map(lambda values: [torch.tensor(values, dtype=torch.float64)])


@given(vectors, vectors)
@settings(deadline=None)
def test_the_penalty_is_never_negative(gradient, other):
    reference = unit(other)
    if reference is not None:
        assert norm(gradient) - inner(gradient, reference) >= -1e-9 * (1 + norm(gradient))


def test_the_reference_is_the_normalized_bias_corrected_average_of_past_gradients():
    torch.manual_seed(0)
    gradients = [[torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)] for _ in range(9)]
    reference = EmaReference(0.8)
    for count, gradient in enumerate(gradients):
        found = reference.direction()
        if count < 5:
            assert found is None
        else:
            past = [torch.cat(g) for g in gradients[:count]]
            weights = [0.2 * 0.8 ** (count - 1 - age) for age in range(count)]
            average = sum(w * g for w, g in zip(weights, past, strict=True)) / sum(weights)
            assert torch.allclose(torch.cat(found), average / average.norm(), atol=1e-12)
        reference.update(gradient)


def test_the_reference_keeps_no_hold_of_the_gradients_it_saw():
    gradient = [torch.ones(2)]
    reference = EmaReference(0.5, warm_up=1)
    reference.update(gradient)
    gradient[0].mul_(-1)
    assert torch.equal(torch.sign(reference.direction()[0]), torch.ones(2))


def test_without_memory_the_reference_is_the_last_gradient():
    reference = EmaReference(0.0, warm_up=1)
    reference.update([torch.tensor([5.0, 0.0])])
    reference.update([torch.tensor([0.0, 2.0])])
    assert torch.allclose(reference.direction()[0], torch.tensor([0.0, 1.0]))


def test_gradients_that_cancel_point_nowhere():
    reference = EmaReference(0.0, warm_up=1)
    reference.update([torch.zeros(3)])
    assert reference.direction() is None
