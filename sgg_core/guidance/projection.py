"""Gradients of LoRA factors, freed of the choice of factors.

(A, B) -> (c A, B / c) is the same update s B A with other factor gradients, so their norms and cosines cannot be
compared between runs, ranks or scalings. What can be is P(G), the projection of the full-weight gradient G (m, n) on
the tangent space of the matrices s B A of rank r:

    P(G) = P_B G + (I - P_B) G P_A,    P_A = A^T (A A^T)^-1 A,    P_B = B (B^T B)^-1 B^T

The factor gradients tell it without G: g_A = s B^T G and g_B = s G A^T. The inner products of projections, and so their
norms and cosines, follow from small matrices of r rows alone (`projected_products`). Where B is zero, as at the start,
P_B is zero and the second part remains alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sgg_core.gradients import Gradient, Vector
from sgg_core.guidance.layers import FactorPair

# Directions of a factor shorter than this share of its longest one count as missing.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Arrangement:
    """An order of all weights (P) in which the pairs of one shape lie together, all A before all B of them.

    A GPU takes as long for one pair as for all of a shape. `kinds` are the number of pairs and the shapes of A and B;
    weights in no pair come last.
    """

    order: Tensor
    kinds: tuple[tuple[int, torch.Size, torch.Size], ...]

    @staticmethod
    def of(parameters: Sequence[Tensor], pairs: Sequence[FactorPair]) -> Arrangement:
        """That of these parameters."""
        alike: dict[tuple[torch.Size, torch.Size], list[FactorPair]] = {}
        for pair in pairs:
            alike.setdefault((parameters[pair.a].shape, parameters[pair.b].shape), []).append(pair)
        places: list[int] = []
        for group in alike.values():
            places += [pair.a for pair in group]
            places += [pair.b for pair in group]
        places += sorted(set(range(len(parameters))) - set(places))
        borders = list(accumulate((parameter.numel() for parameter in parameters), initial=0))
        order = torch.cat([torch.arange(borders[place], borders[place + 1]) for place in places])
        kinds = tuple((len(group), *shapes) for shapes, group in alike.items())
        return Arrangement(order.to(parameters[0].device), kinds)

    def split(self, arranged: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """A (K, pairs, r, n) and B (K, pairs, m, r) of each kind, of K x P weights in this order, and the rest."""
        shapes = [(count, *shape) for count, *both in self.kinds for shape in both]
        sizes = [math.prod(shape) for shape in shapes]
        *parts, rest = torch.split(arranged, [*sizes, arranged.shape[1] - sum(sizes)], dim=1)
        views = [part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True)), rest


def projected_products(
    parameters: Tensor, vectors: Sequence[Gradient], arrangement: Arrangement, scale: float
) -> list[list[float]]:
    """<P(G_i), P(G_j)> of all gradients in `vectors`, at parameters (P); those in no pair count as they are.

    With M_A = (A A^T)^-1 and M_B = (B^T B)^-1 on the directions that A and B have, a pair's share is
    <M_B, g_A h_A^T> + <M_A, g_B^T h_B - g_B^T B M_B B^T h_B>, over s^2.
    """
    whole = torch.stack([parameters.detach(), *(Vector.of(vector).flat for vector in vectors)])
    factors, rest = arrangement.split(whole[:, arrangement.order])
    rest = rest[1:].double()
    count, number = len(vectors) + 1, sum(pairs for pairs, *_ in arrangement.kinds)
    if not number:
        return (rest @ rest.mT).tolist()
    of_a, of_b = [], []
    for a, b in ((a.double(), b.double()) for a, b in factors):  # (1 + K, pairs, r, n), (1 + K, pairs, m, r)
        rows, columns = a.transpose(0, 1).flatten(1, 2), b.permute(1, 0, 3, 2).flatten(1, 2)
        of_a.append(rows @ rows.mT)
        of_b.append(columns @ columns.mT)
    rank = arrangement.kinds[0][1][0]
    split = (number, count, rank, count, rank)
    a, b = (torch.cat(part).view(split).permute(1, 3, 0, 2, 4) for part in (of_a, of_b))  # (1 + K, 1 + K, pairs, r, r)
    inverse = _inverses(torch.cat([a[0, 0], b[0, 0]]))
    m_a, m_b = inverse[:number], inverse[number:]
    outside = b[1:, 1:] - (b[1:, None, 0] @ m_b) @ b[None, 0, 1:]
    products = ((m_b * a[1:, 1:]) + (m_a * outside)).sum((-3, -2, -1)) / scale**2
    found: list[list[float]] = (products + rest @ rest.mT).tolist()
    return found


def _inverses(grams: Tensor) -> Tensor:
    """M^-1 of symmetric matrices (pairs, r, r) on the directions that they have; zero on the others."""
    values, vectors = torch.linalg.eigh(grams)  # (pairs, r), (pairs, r, r)
    longest = values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    kept = values > TOLERANCE**2 * longest
    inverse: Tensor = vectors @ ((kept / torch.where(kept, values, 1.0))[:, :, None] * vectors.mT)
    return inverse
