"""One step of plain LoRA: the product's optimizer settings without guidance, for what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import Parameter

from sgg_core.gradients import Gradient
from sgg_core.plan import Plan
from sgg_core.weights import in_blocks


def clipped_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Parameter], gradient: Gradient, plan: Plan, step: int
) -> None:
    """Clip `gradient` and take an optimizer step with it, with clipping and learning rate of `plan` at `step`."""
    moved, parts = in_blocks(parameters, gradient)
    for tensor, part in zip(moved, parts, strict=True):
        tensor.grad = part
    if plan.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(moved, plan.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate_at(step)
    optimizer.step()
    optimizer.zero_grad()
