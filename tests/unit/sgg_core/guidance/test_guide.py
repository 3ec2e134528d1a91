"""The guided step's arithmetic against double backward, finite differences and SAM, in float64."""

import pytest
import torch

from sgg_core.gradients import combined, norm, scaled, unit
from sgg_core.guidance.guide import Strengths, combine, every_kth, perturbation, ramp

generator = torch.Generator().manual_seed(0)
SYMMETRIC = (lambda a: a @ a.T / 5 + torch.eye(5, dtype=torch.float64))(
    torch.randn(5, 5, generator=generator, dtype=torch.float64)
)
THETA = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 2)]
REFERENCE = unit([torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 2)])
SOURCE = unit([torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 2)])


def loss(theta):
    """A smooth problem that is not quadratic, so that its Hessian depends on theta."""
    x = torch.cat(theta)
    return 0.5 * x @ SYMMETRIC @ x + torch.sin(x).sum() + 0.1 * (x**4).sum()


def gradient(theta):
    leaves = [part.detach().requires_grad_() for part in theta]
    return list(torch.autograd.grad(loss(leaves), leaves))


def hessian_vector(theta, v):
    x = torch.cat(theta)
    hessian = torch.autograd.functional.hessian(lambda flat: loss([flat[:3], flat[3:]]), x)
    return list((hessian @ torch.cat(v)).split([3, 2]))


def objective_gradient(theta, lambda_m, lambda_d, lambda_s):
    """grad of J = L + lambda_d R_dir + lambda_m R_mag + lambda_s R_align by double backward, from its definition."""
    leaves = [part.detach().requires_grad_() for part in theta]
    g = torch.cat(torch.autograd.grad(loss(leaves), leaves, create_graph=True))
    length = g.norm()
    total = loss(leaves) + lambda_m * length
    total = total + lambda_d * (length - g @ torch.cat(REFERENCE)) + lambda_s * (length - g @ torch.cat(SOURCE))
    return list(torch.autograd.grad(total, leaves))


def distance(a, b):
    return norm(combined([(1.0, a), (-1.0, b)]))


@pytest.mark.parametrize(
    "strengths",
    [Strengths(0.7, 0.3, 0.2), Strengths(1.0, 0.0, 0.0), Strengths(0.0, 1.0, 0.0), Strengths(0.0, 0.0, 0.5)],
)
def test_one_hessian_vector_product_is_the_objectives_gradient(strengths):
    g = gradient(THETA)
    radius = 0.05
    v = perturbation(g, strengths, REFERENCE, SOURCE)
    ours = combined([(1.0, g), (radius, hessian_vector(THETA, v))])
    lambdas = [radius * a for a in (strengths.magnitude, strengths.direction, strengths.alignment)]
    assert distance(ours, objective_gradient(THETA, *lambdas)) < 1e-8


def test_the_finite_difference_converges_to_the_objectives_gradient_with_its_radius():
    strengths = Strengths(0.7, 0.3, 0.2)
    g = gradient(THETA)
    v = perturbation(g, strengths, REFERENCE, SOURCE)
    errors = []
    for radius in (1e-2, 1e-3, 1e-4):
        displaced = combined([(1.0, THETA), (radius / norm(v), v)])
        ours = combine(g, gradient(displaced), v)
        exact = combined([(1.0, g), (radius, hessian_vector(THETA, v))])
        errors.append(distance(ours, exact) / radius)  # the correction itself shrinks with r
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3


def test_magnitude_alone_is_the_gradient_norm_penalty():
    leaves = [part.detach().requires_grad_() for part in THETA]
    g = torch.autograd.grad(loss(leaves), leaves, create_graph=True)
    penalty = torch.autograd.grad(0.04 * torch.cat(g).norm(), leaves)
    own = gradient(THETA)
    correction = hessian_vector(THETA, perturbation(own, Strengths(magnitude=0.8)))
    assert distance(scaled(correction, 0.05), list(penalty)) < 1e-10


def test_full_magnitude_alone_is_sam():
    g = gradient(THETA)
    v = perturbation(g, Strengths(magnitude=1.0), REFERENCE, SOURCE)
    sam = gradient(combined([(1.0, THETA), (0.05, unit(g))]))
    displaced = combined([(1.0, THETA), (0.05, unit(v))])
    assert distance(combine(g, gradient(displaced), v), sam) < 1e-12


def test_coefficients_of_the_perturbation():
    g = gradient(THETA)
    v = perturbation(g, Strengths(0.5, 0.3, 0.2), REFERENCE, SOURCE)
    assert distance(v, combined([(1.0, unit(g)), (-0.3, REFERENCE), (-0.2, SOURCE)])) < 1e-12


def test_a_regularizer_without_its_vector_does_not_act():
    g = gradient(THETA)
    everything = perturbation(g, Strengths(0.5, 0.3, 0.2), None, None)
    assert distance(everything, scaled(unit(g), 0.5)) < 1e-12
    assert perturbation(g, Strengths(0.0, 0.3, 0.2), None, None) is None
    assert perturbation(g, Strengths(), REFERENCE, SOURCE) is None
    assert perturbation(scaled(g, 0.0), Strengths(1.0, 1.0, 1.0), REFERENCE, SOURCE) is None


def test_a_gradient_along_the_reference_is_left_alone_by_the_direction_regularizer():
    v = perturbation(scaled(REFERENCE, 3.0), Strengths(direction=1.0), REFERENCE)
    assert norm(v) < 1e-12


def test_inputs_are_not_changed():
    g = gradient(THETA)
    before = [part.clone() for part in g]
    v = perturbation(g, Strengths(0.5, 0.5, 0.5), REFERENCE, SOURCE)
    combine(g, gradient(THETA), v)
    assert all(torch.equal(a, b) for a, b in zip(g, before, strict=True))


@pytest.mark.parametrize(
    ("strengths", "vector"), [(Strengths(direction=0.3), REFERENCE), (Strengths(alignment=0.3), SOURCE)]
)
def test_a_penalty_alone_perturbs_along_its_own_gradient(strengths, vector):
    flat = torch.cat(gradient(THETA)).requires_grad_()
    (slope,) = torch.autograd.grad(0.3 * (flat.norm() - flat @ torch.cat(vector)), flat)
    v = perturbation(gradient(THETA), strengths, REFERENCE, SOURCE)
    assert torch.allclose(slope, torch.cat(v), atol=1e-12)


def test_strengths_ramp_linearly_after_the_warm_up():
    factors = [ramp(step, 20, 0.1, 0.2) for step in range(1, 21)]
    assert factors[:2] == [0.0, 0.0]
    assert factors[2:6] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert set(factors[6:]) == {1.0}
    assert [ramp(step, 4, 0.5, 0.0) for step in range(1, 5)] == [0.0, 0.0, 1.0, 1.0]
    assert Strengths(0.4, 0.2, 0.1).times(0.5) == Strengths(0.2, 0.1, 0.05)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1e3])
def test_the_hinge_penalizes_only_what_lies_above_its_threshold(threshold):
    leaves = [part.detach().requires_grad_() for part in THETA]
    g = torch.cat(torch.autograd.grad(loss(leaves), leaves, create_graph=True))
    hinge = torch.autograd.grad(0.05 * 0.8 * torch.relu(g.norm() - threshold), leaves)
    v = perturbation(gradient(THETA), Strengths(magnitude=0.8), magnitude_threshold=threshold)
    assert (v is None) == (norm(gradient(THETA)) <= threshold)
    ours = scaled(THETA, 0.0) if v is None else scaled(hessian_vector(THETA, v), 0.05)
    assert distance(ours, list(hinge)) < 1e-10


def test_below_the_magnitudes_threshold_the_direction_still_acts():
    v = perturbation(gradient(THETA), Strengths(0.8, 0.3), REFERENCE, magnitude_threshold=1e3)
    assert distance(v, combined([(0.3, unit(gradient(THETA))), (-0.3, REFERENCE)])) < 1e-12


def test_corrections_of_every_kth_step_add_up_to_those_of_all_steps():
    factors = [every_kth(step, 0.5, 3) for step in range(1, 13)]
    assert [step for step, factor in enumerate(factors, 1) if factor] == [3, 6, 9, 12]
    assert sum(factors) == sum(every_kth(step, 0.5, 1) for step in range(1, 13)) == 6.0
