"""Gradients as sequences of tensors, one per trainable parameter, and the few operations the method needs on them.

Those of a training run are a `Vector`: all parts lie in one tensor, so that an operation is one, however many parts
there are. An adapter has hundreds of small ones, and a GPU takes as long for each of them as for all in one.
Reductions are computed in float64 and return Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, overload

import torch
from torch import Tensor

Gradient = Sequence[Tensor]


class Vector(Sequence[Tensor]):
    """Tensors of these shapes as views of one tensor `flat` (P), in which they lie one after the other."""

    def __init__(self, flat: Tensor, shapes: Sequence[torch.Size]) -> None:
        self.flat = flat
        self.shapes = tuple(shapes)
        self._borders: list[int] | None = None

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Vector:
        """A copy of these parts, without their graphs; a Vector as it is."""
        if isinstance(parts, Vector):
            return parts
        return cls(torch.cat([part.detach().reshape(-1) for part in parts]), [part.shape for part in parts])

    def like(self, flat: Tensor) -> Vector:
        """Other numbers in the same shapes."""
        return Vector(flat, self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if self._borders is None:
            self._borders = list(accumulate((shape.numel() for shape in self.shapes), initial=0))
        return self.flat[self._borders[place] : self._borders[place + 1]].view(self.shapes[place])

    def __reversed__(self) -> Any:
        return reversed(self[:])


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """<a, b> over all parameters, accumulated in float64."""
    return products([a, b])[0][1]


def norm(a: Sequence[Tensor]) -> float:
    """Euclidean norm over all parameters."""
    parts = [a.flat] if isinstance(a, Vector) else a
    squares = [torch.linalg.vector_norm(part.detach(), dtype=torch.float64) ** 2 for part in parts]
    return math.sqrt(float(torch.stack(squares).sum()))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor], eps: float = 1e-12) -> float:
    """cos(a, b), 0 where either vector is (numerically) zero."""
    return cosine_of(products([a, b]), 0, 1, eps)


def products(vectors: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """<a_i, a_j> of all these vectors, accumulated in float64."""
    found = None
    for parts in zip(*_blocks(*vectors), strict=True):
        rows = torch.stack([part.detach().reshape(-1) for part in parts]).double()
        found = rows @ rows.mT if found is None else found + rows @ rows.mT
    assert found is not None
    return found.tolist()


def cosine_of(products: Sequence[Sequence[float]], i: int, j: int, eps: float = 1e-12) -> float:
    """The cosine of two vectors whose inner products, among others, these are; 0 where one is (numerically) zero."""
    lengths = math.sqrt(max(0.0, products[i][i])) * math.sqrt(max(0.0, products[j][j]))
    return 0.0 if lengths < eps else max(-1.0, min(1.0, products[i][j] / lengths))


def scaled(a: Sequence[Tensor], factor: float) -> Gradient:
    """factor * a, as new tensors."""
    return a.like(a.flat * factor) if isinstance(a, Vector) else [x * factor for x in a]


def combined(terms: Sequence[tuple[float, Sequence[Tensor]]]) -> Gradient:
    """sum_i c_i a_i over (c_i, a_i), as new tensors. Terms with c_i = 0 are skipped; one term must remain."""
    kept = [(factor, vector) for factor, vector in terms if factor != 0.0]
    total = scaled(kept[0][1], kept[0][0])
    for factor, vector in kept[1:]:
        to, more = _blocks(total, vector)
        torch._foreach_add_(to, more, alpha=factor)
    return total


def unit(a: Sequence[Tensor]) -> Gradient | None:
    """a / |a|, or None where a is (numerically) zero and has no direction."""
    length = norm(a)
    return None if length < 1e-12 else scaled(a, 1.0 / length)


def moved_towards(average: Sequence[Tensor], newest: Sequence[Tensor], weight: float) -> None:
    """average += weight (newest - average), in its place."""
    to, by = _blocks(average, newest)
    torch._foreach_lerp_(to, by, weight)


def zeros(like: Sequence[Tensor]) -> Gradient:
    """Zero in the same shapes."""
    return like.like(torch.zeros_like(like.flat)) if isinstance(like, Vector) else [torch.zeros_like(x) for x in like]


def _blocks(*vectors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The same numbers in as few tensors as all have in common."""
    if all(isinstance(vector, Vector) for vector in vectors):
        return [[vector.flat] for vector in vectors if isinstance(vector, Vector)]
    return [list(vector) for vector in vectors]
