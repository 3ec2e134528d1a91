"""Projected gradients against the dense projection, and their freedom from the choice of factors."""

import pytest
import torch

from sgg_core.gradients import cosine, inner, norm
from sgg_core.guidance.layers import FactorPair, factor_pairs, layers
from sgg_core.guidance.projection import Projection

M, N, R, S = 7, 5, 3, 2.0
PAIR = (FactorPair(0, 1),)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B = randn(R, N, seed=1), randn(M, R, seed=2)
FULL = [randn(M, N, seed=seed) for seed in (3, 4)]


def of_factors(full, a, b):
    """The factor gradients that a full-weight gradient G gives: DeltaW = s B A."""
    return [S * b.T @ full, S * full @ a.T]


def dense(full, a, b):
    """P(G) by pseudo-inverses, as it is defined."""
    onto_rows, onto_columns = torch.linalg.pinv(a) @ a, b @ torch.linalg.pinv(b)
    return onto_columns @ full + full @ onto_rows - onto_columns @ full @ onto_rows


def cases():
    short = B.clone()
    short[:, 2] = short[:, 0]  # a B of lower rank than r
    return {"full rank": (A, B), "lower rank": (A, short), "zero": (A, torch.zeros_like(B))}


@pytest.mark.parametrize("name", cases())
def test_coordinates_have_the_inner_products_of_the_dense_projection(name):
    a, b = cases()[name]
    projection = Projection([a, b], PAIR, S)
    ours = [projection(of_factors(full, a, b)) for full in FULL]
    theirs = [dense(full, a, b) for full in FULL]
    for i in range(2):
        for j in range(2):
            assert inner(ours[i], ours[j]) == pytest.approx(float((theirs[i] * theirs[j]).sum()), abs=1e-8)


@pytest.mark.parametrize("factor", [0.01, 3.0, 200.0])
def test_norms_and_cosines_do_not_see_how_an_update_is_split(factor):
    torch.manual_seed(0)
    mix = factor * torch.linalg.qr(randn(R, R, seed=5))[0] @ torch.diag(torch.tensor([1.0, 2.0, 0.5]).double())
    for change in (factor * torch.eye(R, dtype=torch.float64), mix):
        a, b = change @ A, B @ torch.linalg.inv(change)
        assert torch.allclose(b @ a, B @ A)
        before, after = Projection([A, B], PAIR, S), Projection([a, b], PAIR, S)
        was = [before(of_factors(full, A, B)) for full in FULL]
        now = [after(of_factors(full, a, b)) for full in FULL]
        assert [norm(g) for g in now] == pytest.approx([norm(g) for g in was], rel=1e-8)
        assert cosine(*now) == pytest.approx(cosine(*was), abs=1e-8)
    raw = [norm(of_factors(FULL[0], *factors)) for factors in ((A, B), (factor * A, B / factor))]
    assert abs(raw[0] / raw[1] - 1) > 0.1, "raw norms are not the same"


def test_scalings_and_ranks_can_be_compared():
    """The same update with another s, or with a factor of more rows that it does not need."""
    found = []
    for a, b, s in ((A, B, S), (A, B * S / 8.0, 8.0)):
        gradient = [s * b.T @ FULL[0], s * FULL[0] @ a.T]
        found.append(norm(Projection([a, b], PAIR, s)(gradient)))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_descent_step_changes_the_loss_as_the_projected_norm_says():
    """Along the tangent vector -P(G) the weight's loss falls by |P(G)|^2 to first order."""
    tangent = dense(FULL[0], A, B)
    slope = -float((FULL[0] * tangent).sum())
    ours = Projection([A, B], PAIR, S)(of_factors(FULL[0], A, B))
    assert slope == pytest.approx(-(norm(ours) ** 2))


def test_other_parameters_pass_through():
    head = randn(4, seed=9)
    ours = Projection([A, B, head], PAIR, S)([*of_factors(FULL[0], A, B), head])
    assert torch.equal(ours[2], head)


NAMES = [
    "base_model.model.encoder.layer.0.query.lora_A.default.weight",
    "base_model.model.encoder.layer.0.query.lora_B.default.weight",
    "base_model.model.encoder.layer.11.value.lora_B.default.weight",
    "base_model.model.encoder.layer.11.value.lora_A.default.weight",
    "head.weight",
    "head.bias",
]


def test_pairs_and_layers_are_read_from_names():
    assert factor_pairs(NAMES) == (FactorPair(0, 1), FactorPair(3, 2))
    found = {layer.name: layer.members for layer in layers(NAMES)}
    first, last = (f"base_model.model.encoder.layer.{number}" for number in (0, 11))
    assert found == {first: (0, 1), last: (2, 3), "head": (4, 5)}
    assert factor_pairs(["weight", "bias"]) == ()
