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
class Stack:
    """Pairs of one shape and scale that lie equally far from each other, as those of one module in all layers do.

    The first A (r, n) begins at weight `a`, the first B (m, r) at weight `b`, and the next ones `step` later.
    """

    count: int
    step: int
    a: int
    b: int
    shape_a: torch.Size
    shape_b: torch.Size
    scale: float

    def of_a(self, whole: Tensor) -> Tensor:
        """(pairs, K r, n) from K x P weights, in float64."""
        r, n = self.shape_a
        return _copied(whole, (self.count, len(whole), r, n), (self.step, whole.shape[1], n, 1), self.a).flatten(1, 2)

    def of_b(self, whole: Tensor) -> Tensor:
        """(pairs, m, K r) from K x P weights, in float64."""
        m, r = self.shape_b
        return _copied(whole, (self.count, m, len(whole), r), (self.step, r, whole.shape[1], 1), self.b).flatten(2, 3)


@dataclass(frozen=True)
class Arrangement:
    """Where among all weights (P) the pairs lie, and, as beginnings and ends, those that are in no pair.

    A GPU takes as long for one pair as for all of a stack, and a CPU's memory is read in order.
    """

    stacks: tuple[Stack, ...]
    rest: tuple[tuple[int, int], ...]

    @staticmethod
    def of(parameters: Sequence[Tensor], pairs: Sequence[FactorPair]) -> Arrangement:
        """That of these parameters."""
        borders = list(accumulate((parameter.numel() for parameter in parameters), initial=0))
        alike: dict[tuple[torch.Size, torch.Size, float], list[tuple[int, int]]] = {}
        for pair in pairs:
            facts = parameters[pair.a].shape, parameters[pair.b].shape, pair.scale
            alike.setdefault(facts, []).append((borders[pair.a], borders[pair.b]))
        stacks = [
            Stack(len(places), places[1][0] - places[0][0] if len(places) > 1 else 0, *places[0], a, b, scale)
            for (a, b, scale), group in alike.items()
            for places in _evenly_spaced(group)
        ]
        paired = {place for pair in pairs for place in (pair.a, pair.b)}
        rest = [(borders[place], borders[place + 1]) for place in range(len(parameters)) if place not in paired]
        return Arrangement(tuple(stacks), tuple(rest))


def _evenly_spaced(places: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The same places, each in one of a few lists whose neighbours are equally far apart in both coordinates."""
    left, found = sorted(places), []
    while left:
        first, longest = left[0], left[:1]
        for second in left[1:]:
            step, chain, known = second[0] - first[0], [first], set(left)
            while (following := (chain[-1][0] + step, chain[-1][1] + step)) in known:
                chain.append(following)
            longest = max(longest, chain, key=len)
        found.append(longest)
        left = [place for place in left if place not in longest]
    return found


def _copied(whole: Tensor, shape: Sequence[int], strides: Sequence[int], begin: int) -> Tensor:
    """A view of contiguous weights, in float64 and an order of its own: converted while it is read."""
    copy = torch.empty(shape, dtype=torch.float64, device=whole.device)
    return copy.copy_(whole.as_strided(shape, strides, begin))


def projected_products(parameters: Tensor, vectors: Sequence[Gradient], arrangement: Arrangement) -> list[list[float]]:
    """<P(G_i), P(G_j)> of all gradients in `vectors`, at parameters (P); those in no pair count as they are.

    With M_A = (A A^T)^-1 and M_B = (B^T B)^-1 on the directions that A and B have, a pair's share is
    <M_B, g_A h_A^T> + <M_A, g_B^T h_B - g_B^T B M_B B^T h_B>, over s^2.
    """
    whole = torch.stack([parameters.detach(), *(Vector.of(vector).flat for vector in vectors)])
    others = [whole[1:, begin:end] for begin, end in arrangement.rest]
    rest = torch.cat(others, dim=1).double() if others else whole.new_zeros(len(vectors), 1, dtype=torch.float64)
    products = rest @ rest.mT
    by_rank: dict[int, list[Stack]] = {}
    for stack in arrangement.stacks:
        by_rank.setdefault(stack.shape_a[0], []).append(stack)
    for rank, stacks in by_rank.items():
        products = products + _products_of_pairs(whole, stacks, rank)
    found: list[list[float]] = products.tolist()
    return found


def _products_of_pairs(whole: Tensor, stacks: Sequence[Stack], rank: int) -> Tensor:
    """What pairs of one rank add to the products (K, K), given parameters and gradients (1 + K, P)."""
    of_a, of_b = [], []
    for stack in stacks:
        rows, columns = stack.of_a(whole), stack.of_b(whole)
        of_a.append(rows @ rows.mT)
        of_b.append(columns.mT @ columns)
    count, number = len(whole), sum(stack.count for stack in stacks)
    split = (number, count, rank, count, rank)
    a, b = (torch.cat(part).view(split).permute(1, 3, 0, 2, 4) for part in (of_a, of_b))  # (1 + K, 1 + K, pairs, r, r)
    inverse = _inverses(torch.cat([a[0, 0], b[0, 0]]))
    m_a, m_b = inverse[:number], inverse[number:]
    outside = b[1:, 1:] - (b[1:, None, 0] @ m_b) @ b[None, 0, 1:]
    of_pairs = ((m_b * a[1:, 1:]) + (m_a * outside)).sum((-2, -1))  # (K, K, pairs)
    scales = [stack.scale for stack in stacks for _ in range(stack.count)]
    return of_pairs @ of_pairs.new_tensor(scales).pow(-2)


def _inverses(grams: Tensor) -> Tensor:
    """M^-1 of symmetric matrices (pairs, r, r) on the directions that they have; zero on the others."""
    values, vectors = torch.linalg.eigh(grams)  # (pairs, r), (pairs, r, r)
    longest = values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    kept = values > TOLERANCE**2 * longest
    inverse: Tensor = vectors @ ((kept / torch.where(kept, values, 1.0))[:, :, None] * vectors.mT)
    return inverse
