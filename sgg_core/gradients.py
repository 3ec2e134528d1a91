"""Gradients as lists of tensors, one per trainable parameter, and the few operations the method needs on them.

Everything is computed in float32 (or wider) and returns Python floats where a scalar is meant: few-shot adapters have
some hundred thousand parameters, so the time goes to the passes through the network, not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Gradient = list[Tensor]


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """<a, b> over all parameters, accumulated in float64."""
    return float(sum(torch.sum(x.double() * y.double()) for x, y in zip(a, b, strict=True)))


def norm(a: Sequence[Tensor]) -> float:
    """Euclidean norm over all parameters."""
    return float(inner(a, a) ** 0.5)


def cosine(a: Sequence[Tensor], b: Sequence[Tensor], eps: float = 1e-12) -> float:
    """cos(a, b), 0 where either vector is (numerically) zero."""
    product = norm(a) * norm(b)
    return 0.0 if product < eps else max(-1.0, min(1.0, inner(a, b) / product))


def scaled(a: Sequence[Tensor], factor: float) -> Gradient:
    """factor * a, as new tensors."""
    return [x * factor for x in a]


def combined(terms: Sequence[tuple[float, Sequence[Tensor]]]) -> Gradient:
    """sum_i c_i a_i over (c_i, a_i), as new tensors. Terms with c_i = 0 are skipped; one term must remain."""
    kept = [(factor, vector) for factor, vector in terms if factor != 0.0]
    total = scaled(kept[0][1], kept[0][0])
    for factor, vector in kept[1:]:
        torch._foreach_add_(total, list(vector), alpha=factor)
    return total


def unit(a: Sequence[Tensor], eps: float = 1e-12) -> Gradient | None:
    """a / |a|, or None where a is (numerically) zero and has no direction."""
    length = norm(a)
    return None if length < eps else scaled(a, 1.0 / length)
