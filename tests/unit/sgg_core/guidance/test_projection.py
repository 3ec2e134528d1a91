"""Projected gradients against the dense projection, and their freedom from the choice of factors."""

from dataclasses import replace

import pytest
import torch

from sgg_core.gradients import Vector, cosine_of, norm
from sgg_core.guidance.layers import FactorPair, factor_pairs, layers
from sgg_core.guidance.projection import Arrangement, projected_products

M, N, R, S = 7, 5, 3, 2.0
PAIR = (FactorPair(0, 1),)


def projected(parameters, scale, *gradients, pairs=PAIR):
    """Inner products of the gradients' projections."""
    pairs = [replace(pair, scale=scale) for pair in pairs]
    return projected_products(Vector.of(parameters).flat, gradients, Arrangement.of(parameters, pairs))


def length(parameters, scale, gradient, pairs=PAIR):
    return projected(parameters, scale, gradient, pairs=pairs)[0][0] ** 0.5


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
    ours = projected([a, b], S, *(of_factors(full, a, b) for full in FULL))
    theirs = [dense(full, a, b) for full in FULL]
    for i in range(2):
        for j in range(2):
            assert ours[i][j] == pytest.approx(float((theirs[i] * theirs[j]).sum()), abs=1e-8)


@pytest.mark.parametrize("factor", [0.01, 3.0, 200.0])
def test_norms_and_cosines_do_not_see_how_an_update_is_split(factor):
    torch.manual_seed(0)
    mix = factor * torch.linalg.qr(randn(R, R, seed=5))[0] @ torch.diag(torch.tensor([1.0, 2.0, 0.5]).double())
    for change in (factor * torch.eye(R, dtype=torch.float64), mix):
        a, b = change @ A, B @ torch.linalg.inv(change)
        assert torch.allclose(b @ a, B @ A)
        was, now = (projected(f, S, *(of_factors(full, *f) for full in FULL)) for f in ([A, B], [a, b]))
        assert [now[0][0], now[1][1]] == pytest.approx([was[0][0], was[1][1]], rel=1e-8)
        assert cosine_of(now, 0, 1) == pytest.approx(cosine_of(was, 0, 1), abs=1e-8)
    raw = [norm(of_factors(FULL[0], *factors)) for factors in ((A, B), (factor * A, B / factor))]
    assert abs(raw[0] / raw[1] - 1) > 0.1, "raw norms are not the same"


def test_scalings_and_ranks_can_be_compared():
    """The same update with another s, or with a factor of more rows that it does not need."""
    found = []
    for a, b, s in ((A, B, S), (A, B * S / 8.0, 8.0)):
        gradient = [s * b.T @ FULL[0], s * FULL[0] @ a.T]
        found.append(length([a, b], s, gradient))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_descent_step_changes_the_loss_as_the_projected_norm_says():
    """Along the tangent vector -P(G) the weight's loss falls by |P(G)|^2 to first order."""
    tangent = dense(FULL[0], A, B)
    slope = -float((FULL[0] * tangent).sum())
    ours = length([A, B], S, of_factors(FULL[0], A, B))
    assert slope == pytest.approx(-(ours**2))


def test_other_parameters_count_as_they_are():
    head, gradient = randn(4, seed=9), of_factors(FULL[0], A, B)
    whole = length([A, B, head], S, [*gradient, head])
    assert whole**2 == pytest.approx(length([A, B], S, gradient) ** 2 + norm([head]) ** 2)


def test_pairs_of_several_shapes_in_any_order_add_up():
    """Each pair's share is what it is alone, whatever lies between its factors."""
    wide = randn(R, 9, seed=11), randn(4, R, seed=12)
    parameters = [wide[1], A, randn(4, seed=9), wide[0], B, 2.0 * B, A + 1.0]
    pairs = (FactorPair(1, 4), FactorPair(3, 0), FactorPair(6, 5))
    gradient = [randn(*parameter.shape, seed=20 + n) for n, parameter in enumerate(parameters)]
    parts = [length([parameters[p.a], parameters[p.b]], S, [gradient[p.a], gradient[p.b]]) for p in pairs]
    whole = length(parameters, S, gradient, pairs=pairs)
    assert whole**2 == pytest.approx(sum(part**2 for part in parts) + norm([gradient[2]]) ** 2)


@pytest.mark.parametrize(("layers_", "between"), [(1, 0), (4, 0), (4, 3)])
def test_pairs_that_repeat_layer_by_layer_are_stacked_and_add_up(layers_, between):
    """Two modules of one shape and one of another in each layer, with an odd weight before some of the layers."""
    parameters, pairs = [], []
    for layer in range(layers_):
        if between and layer % between:
            parameters.append(randn(1 + layer, seed=90 + layer))
        for module, (m, n) in enumerate([(M, N), (M, N), (N, M)]):
            pairs.append(FactorPair(len(parameters), len(parameters) + 1))
            seed = 10 * layer + 2 * module
            parameters += [randn(R, n, seed=seed), randn(m, R, seed=seed + 1)]
    gradient = [randn(*parameter.shape, seed=200 + n) for n, parameter in enumerate(parameters)]
    arrangement = Arrangement.of(parameters, pairs)
    assert sum(stack.count for stack in arrangement.stacks) == 3 * layers_
    assert between or len(arrangement.stacks) <= 3
    alone = sum(
        length([parameters[p.a], parameters[p.b]], S, [gradient[p.a], gradient[p.b]]) ** 2 for p in pairs
    ) + sum(norm([gradient[n]]) ** 2 for n, parameter in enumerate(parameters) if parameter.dim() == 1)
    assert length(parameters, S, gradient, pairs=pairs) ** 2 == pytest.approx(alone)


def test_pairs_of_other_ranks_and_scales_count_each_by_its_own():
    parameters, pairs = [], []
    for number, (rank, scale) in enumerate([(R, S), (1, 0.5), (R, 3.0), (2, S)]):
        pairs.append(FactorPair(2 * number, 2 * number + 1, scale))
        parameters += [randn(rank, N, seed=20 + number), randn(M, rank, seed=30 + number)]
    gradients = [[randn(*part.shape, seed=seed + n) for n, part in enumerate(parameters)] for seed in (300, 400)]
    whole = projected_products(Vector.of(parameters).flat, gradients, Arrangement.of(parameters, pairs))
    alone = [
        projected(parameters[pair.a : pair.b + 1], pair.scale, *(each[pair.a : pair.b + 1] for each in gradients))
        for pair in pairs
    ]
    for i in range(2):
        for j in range(2):
            assert whole[i][j] == pytest.approx(sum(each[i][j] for each in alone))


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
    assert factor_pairs(NAMES, 4.0) == (FactorPair(0, 1, 4.0), FactorPair(3, 2, 4.0))
    assert factor_pairs(NAMES, {NAMES[0]: 4.0, NAMES[3]: 8.0}) == (FactorPair(0, 1, 4.0), FactorPair(3, 2, 8.0))
