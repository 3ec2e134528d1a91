"""Where trainable weights lie in memory: an adapter's all in one tensor, which is handled as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn import Parameter

from sgg_core.gradients import Vector
from sgg_core.guidance.layers import FACTOR_A, factor_pairs

PEFT_PREFIX = "base_model.model."


class AdapterWeights:
    """An adapter's parameters, moved to lie one after the other in `flat` (P), which an optimizer can take for them.

    `scale` is that of its updates, alpha / r. `gradient` (P) is what shared passes (sgg_core.packed) have added up.
    """

    def __init__(self, named: Mapping[str, Parameter], rank: int, scale: float) -> None:
        self.parameters = tuple(named.values())
        self.rank, self.scale = rank, scale
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.flat = Parameter(Vector.of(self.parameters).flat)
        self.gradient: Tensor | None = None
        for parameter, part in zip(self.parameters, Vector(self.flat.detach(), self.shapes), strict=True):
            parameter.data = part
        names = list(named)
        self.pairs = {
            names[pair.a].partition(FACTOR_A)[0].removeprefix(PEFT_PREFIX): pair for pair in factor_pairs(names)
        }
        """Where A and B of each adapted layer are among the parameters."""

    def gradients(self) -> list[Tensor]:
        """What backward passes have added up, in one tensor (P) or one per parameter; zeros where there were none."""
        return [added_up(parameter) for parameter in self.parameters] if self.gradient is None else [self.gradient]

    def forget(self) -> None:
        """Leave no gradient."""
        self.gradient = None
        for parameter in self.parameters:
            parameter.grad = None

    def leads(self, parameters: Sequence[Tensor]) -> bool:
        """Whether `parameters` begin with all of the adapter's."""
        return len(parameters) >= len(self.parameters) and parameters[0] is self.parameters[0]


class Weights(Sequence[Parameter]):
    """Trainable parameters, and the tensors `blocks` that hold them in the same order, several of them in one."""

    def __init__(self, parameters: Sequence[Parameter], adapter: AdapterWeights | None = None) -> None:
        self.parameters = tuple(parameters)
        self.blocks: list[Parameter] = list(parameters)
        if adapter is not None and adapter.leads(parameters):
            self.blocks = [adapter.flat, *parameters[len(adapter.parameters) :]]

    def __len__(self) -> int:
        return len(self.parameters)

    @overload
    def __getitem__(self, index: int) -> Parameter: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Parameter]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.parameters[index]


def added_up(parameter: Parameter) -> Tensor:
    """What backward passes have left in `grad`, or zeros."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def as_one(parameters: Sequence[Parameter]) -> Tensor:
    """All parameters one after the other (P), which may be where they lie."""
    blocks = parameters.blocks if isinstance(parameters, Weights) else parameters
    return blocks[0].detach().reshape(-1) if len(blocks) == 1 else Vector.of(blocks).flat


def in_blocks(parameters: Sequence[Parameter], vector: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters, and a vector over them, in as few tensors as both allow."""
    if not isinstance(parameters, Weights) or not isinstance(vector, Vector):
        return list(parameters), list(vector)
    parts = torch.split(vector.flat, [block.numel() for block in parameters.blocks])
    return list(parameters.blocks), [
        part.view_as(block).to(block.dtype) for part, block in zip(parts, parameters.blocks, strict=True)
    ]
