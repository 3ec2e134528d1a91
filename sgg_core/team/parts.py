"""Which part of a batch is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sgg_core.encoding import Encoded
from sgg_core.guidance.passes import Share
from sgg_core.seeding import derived_seed
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.task import LossSum
from sgg_core.team.group import ProcessGroup


def part_of(share: Share, group: ProcessGroup) -> Share:
    """What this process computes of a batch. Each draws a dropout of its own."""
    seed = share.seed if group.place == 0 else derived_seed(share.seed, "helper", group.place)
    if isinstance(share.task, Contrast):
        return replace(share, task=SharedContrast(share.task, group), seed=seed)
    own = dealt(share.items, group.place, group.size)
    return replace(share, items=[share.items[index] for index in own], seed=seed)


def dealt(items: Sequence[Encoded], place: int, size: int) -> list[int]:
    """The indices, in their order, of the items for one place of `size`: each gets as many long and short ones."""
    by_length = sorted(range(len(items)), key=lambda index: (-len(items[index].ids), index))
    return sorted(by_length[place::size])


class SharedContrast(Contrast):
    """Contrast between all examples of a batch, of which this process computes the features of a part with gradient.

    Every process has the loss of the whole batch, with the gradient through its own part: these add up to that of all.
    The loss itself is counted once.
    """

    def __init__(self, whole: Contrast, group: ProcessGroup) -> None:
        super().__init__(whole.pooled, whole.kinship)
        self._group = group

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """As of the whole batch for the leader; for a helper zero, with the gradient of its part."""
        found = super().loss(items)
        if self._group.place == 0:
            return found
        return LossSum(found.total - found.total.detach(), found.units, 0)

    def _features(self, items: Sequence[Encoded]) -> Tensor:
        own = dealt(items, self._group.place, self._group.size)
        shape, device = (len(items), self.base.hidden_size), self.base.device
        rows = (
            super()._features([items[index] for index in own])
            if own
            else torch.zeros(0, shape[1], device=device, requires_grad=True)
        )
        at = torch.tensor(own, dtype=torch.long, device=device)
        (values,) = self._group.total([rows.new_zeros(shape).index_copy(0, at, rows.detach())])
        return values.index_copy(0, at, rows)
