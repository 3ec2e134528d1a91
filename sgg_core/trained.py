"""What a run trains: its parameters, and the optimizer that moves them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from sgg_core.clipped_step import clipped_step
from sgg_core.gradients import Gradient, Vector, combined, norm
from sgg_core.plan import Plan
from sgg_core.weights import AdapterWeights, Weights


class Trained:
    """All parameters of a run by name: the `target`'s, and the `heads` of its sources.

    AdamW moves those `moving` of the target's, and the heads. What it does not move is fitted, such as a head after
    contrast. `adapter` is set where one tensor holds the adapter's parameters, which AdamW then moves as one.
    """

    def __init__(
        self,
        target: Mapping[str, Parameter],
        heads: Mapping[str, Parameter],
        moving: Mapping[str, Parameter],
        adapter: AdapterWeights | None,
        weight_decay: float,
    ) -> None:
        self.parameters = {**target, **heads}
        self.adapter = adapter
        self.weights = Weights(list(moving.values()), adapter)
        self._heads = list(heads.values())
        self._blocks = [*self.weights.blocks, *self._heads]
        self.optimizer = torch.optim.AdamW(self._blocks, weight_decay=weight_decay)

    def now(self) -> Vector:
        """A copy of all parameters, one after the other."""
        return Vector.of(list(self.parameters.values()))

    def put(self, values: Gradient) -> None:
        """Set all parameters to these values, in the order of `now`."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.parameters.values()), list(values))

    def update(self, gradient: Gradient, of_heads: Mapping[Parameter, Tensor], plan: Plan, step: int) -> float:
        """Take the optimizer's step with `gradient` for the weights, clipped, and those of the heads that are named.

        Returns the length of the way, |theta_t - theta_(t-1)| over what the optimizer moves.
        """
        before = [block.detach().clone() for block in self._blocks]
        for head in self._heads:
            head.grad = of_heads.get(head)
        clipped_step(self.optimizer, self.weights, gradient, plan, step)
        return norm(torch._foreach_sub([block.detach() for block in self._blocks], before))

    def distance(self, initial: Gradient) -> float:
        """|theta_t - theta_0| over what the optimizer moves, `initial` being what `now` gave at first."""
        moving = {id(parameter) for parameter in (*self.weights, *self._heads)}
        way = combined([(1.0, self.now()), (-1.0, initial)])
        if len(moving) < len(self.parameters):
            way = [part for each, part in zip(self.parameters.values(), way, strict=True) if id(each) in moving]
        return norm(way)
