"""Gradients of LoRA factors, freed of the choice of factors.

(A, B) -> (c A, B / c) is the same update s B A with other factor gradients, so their norms and cosines cannot be
compared between runs, ranks or scalings. What can be is P(G), the projection of the full-weight gradient G (m, n) on
the tangent space of the matrices s B A of rank r:

    P(G) = P_B G + (I - P_B) G P_A,    P_A = A^T (A A^T)^-1 A,    P_B = B (B^T B)^-1 B^T

The factor gradients tell it without G: g_A = s B^T G and g_B = s G A^T. With orthonormal bases Q_A = W_A A of A's rows
and Q_B = B W_B of B's columns, its two parts, which are orthogonal to each other, have the coordinates

    Q_B^T G = W_B^T g_A / s    (r, n)        (I - P_B) G Q_A^T = (I - P_B) g_B W_A^T / s    (m, r)

in the shapes of g_A and g_B. Inner products of coordinates are those of the P(G). Where B is zero, as at the start, P_B
is zero and the second part remains alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgg_core.gradients import Gradient
from sgg_core.guidance.layers import FactorPair

# Directions of a factor shorter than this share of its longest one count as missing.
TOLERANCE = 1e-5


class Projection:
    """P at the factors' values when it was made; `scale` is s. Parameters in no pair pass through unchanged.

    Pairs of one shape are worked on together: a GPU takes as long for one as for all of them.
    """

    def __init__(self, parameters: Sequence[Tensor], pairs: Sequence[FactorPair], scale: float) -> None:
        self.scale = scale
        by_shape: dict[tuple[torch.Size, torch.Size], list[FactorPair]] = {}
        for pair in pairs:
            by_shape.setdefault((parameters[pair.a].shape, parameters[pair.b].shape), []).append(pair)
        self._groups = [_Group.of(parameters, alike) for alike in by_shape.values()]

    def __call__(self, gradient: Sequence[Tensor]) -> Gradient:
        """Coordinates of P(G) from a gradient of the parameters."""
        result = list(gradient)
        for group in self._groups:
            g_a, g_b = (torch.stack([gradient[place] for place in places]) for places in group.places)
            of_b = g_b @ group.w_a / self.scale  # G Q_A^T (pairs, m, r)
            coordinates = (group.w_b @ g_a / self.scale, of_b - group.basis @ (group.basis.mT @ of_b))
            for places, values in zip(group.places, coordinates, strict=True):
                for place, value in zip(places, values.unbind(), strict=True):
                    result[place] = value
        return result


@dataclass(frozen=True)
class _Group:
    """Pairs of one shape: where A and B are, W_A and W_B (pairs, r, r), and Q_B (pairs, m, r)."""

    places: tuple[list[int], list[int]]
    w_a: Tensor
    w_b: Tensor
    basis: Tensor

    @staticmethod
    def of(parameters: Sequence[Tensor], pairs: Sequence[FactorPair]) -> _Group:
        """What the factors' present values give."""
        places = [pair.a for pair in pairs], [pair.b for pair in pairs]
        a, b = (torch.stack([parameters[place].detach() for place in part]) for part in places)
        w_a, w_b = _inverse_roots(a.double() @ a.double().mT), _inverse_roots(b.double().mT @ b.double())
        return _Group(places, w_a.to(a.dtype), w_b.to(b.dtype), (b.double() @ w_b).to(b.dtype))


def _inverse_roots(grams: Tensor) -> Tensor:
    """M^(-1/2) of symmetric matrices (pairs, r, r) on the directions that they have; zero on the others."""
    values, vectors = torch.linalg.eigh(grams)  # (pairs, r), (pairs, r, r)
    longest = values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    kept = values > TOLERANCE**2 * longest
    roots = torch.where(kept, values, 1.0).rsqrt() * kept
    inverse_root: Tensor = vectors @ (roots[:, :, None] * vectors.mT)
    return inverse_root
