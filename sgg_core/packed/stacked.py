"""The adapters of several jobs as one matrix, a row for each, and their gradients as another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from sgg_core.weights import AdapterWeights


class Layout:
    """How the weights of an adapter of some rank lie in a row (P), and those of smaller ranks among them."""

    def __init__(self, adapter: AdapterWeights) -> None:
        self.rank, self.pairs, self.shapes = adapter.rank, adapter.pairs, adapter.shapes
        self.sizes = [shape.numel() for shape in self.shapes]
        borders = list(accumulate(self.sizes, initial=0))
        self._every = [
            torch.arange(first, last).view(shape)
            for first, last, shape in zip(borders, borders[1:], self.shapes, strict=False)
        ]
        of_b = torch.zeros(borders[-1], dtype=torch.bool)
        for pair in self.pairs.values():
            of_b[borders[pair.b] : borders[pair.b + 1]] = True
        self.of_b = of_b.to(adapter.flat.device)
        self._places: dict[int, Tensor | None] = {self.rank: None}

    def places(self, adapter: AdapterWeights) -> Tensor | None:
        """Where an adapter's weights belong; None if it has the rank of this layout."""
        if adapter.rank not in self._places:
            parts = [
                every[: shape[0], : shape[1]].reshape(-1)
                for every, shape in zip(self._every, adapter.shapes, strict=True)
            ]
            self._places[adapter.rank] = torch.cat(parts).to(self.of_b.device)
        return self._places[adapter.rank]

    def row(self, adapter: AdapterWeights) -> Tensor:
        """Its weights, filled up with zeros."""
        places, flat = self.places(adapter), adapter.flat.detach()
        return flat if places is None else flat.new_zeros(len(self.of_b)).index_copy_(0, places, flat)


class StackedAdapters:
    """The factors of every layer as one `matrix` (blocks, P), for rows that come in equal blocks of one job each.

    `rows` tells how many are whose. Smaller ranks are filled up with zeros, which add nothing and whose gradient goes
    nowhere; B holds the scale of its job. Everything is put together at once for all layers: an operation for each job
    and layer would take longer than the passes themselves.
    """

    def __init__(
        self, layout: Layout, adapters: Sequence[AdapterWeights], rows: Sequence[int], dtype: torch.dtype
    ) -> None:
        self.layout, self.adapters = layout, adapters
        flat = adapters[0].flat
        scales = torch.tensor([[adapter.scale] for adapter in adapters], dtype=flat.dtype, device=flat.device)
        self._scales = torch.where(layout.of_b, scales, 1.0)  # (J, P)
        matrix = (torch.stack([layout.row(adapter) for adapter in adapters]) * self._scales).to(dtype)
        size = math.gcd(*rows)
        owners = [number for number, count in enumerate(rows) for _ in range(count // size)]
        one_each = len(owners) == len(adapters)
        self._owners = None if one_each else torch.tensor(owners, device=flat.device)
        self.matrix = matrix if self._owners is None else matrix[self._owners]
        """(blocks, P)"""

    def gradients(self, found: Tensor) -> list[Tensor]:
        """Each job's (P), given those of the matrix and of blocks after its own."""
        whole = found[: len(self.matrix)].to(self._scales.dtype)
        if self._owners is not None:
            whole = whole.new_zeros(len(self.adapters), whole.shape[1]).index_add_(0, self._owners, whole)
        whole = whole * self._scales
        places = [self.layout.places(adapter) for adapter in self.adapters]
        return [row if at is None else row[at] for row, at in zip(whole, places, strict=True)]


def as_leaves(matrix: Tensor, layout: Layout) -> list[Tensor]:
    """Views of the matrix (blocks, P) for every parameter, which a backward pass gives gradients of."""
    parts = torch.split(matrix, layout.sizes, dim=1)
    return [part.unflatten(1, shape).requires_grad_() for part, shape in zip(parts, layout.shapes, strict=True)]  # type: ignore[no-untyped-call]


def as_matrix(gradients: Sequence[Tensor]) -> Tensor:
    """Gradients of leaves as one matrix (blocks, P)."""
    return torch.cat([gradient.reshape(len(gradient), -1) for gradient in gradients], dim=1)
