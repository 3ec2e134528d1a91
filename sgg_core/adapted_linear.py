"""A frozen linear layer with a low-rank update, in few passes over memory.

What autograd makes of peft's modules reads and writes the layer's output four times for the update alone, which is most
of what LoRA costs on a CPU. Here the update is added in place, forwards and backwards. Values agree with peft's up to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core.halves import frozen

HALF = (torch.bfloat16, torch.float16)


class AdaptedLinear(torch.autograd.Function):
    """x W^T + c + s x A^T B^T, differentiable in x, A and B, and once more for Hessian-vector products.

    W may be of another type than all others; the products with it are computed in that type.
    Shapes: x (T, n), W (m, n), c (m), A (r, n), B (m, r); or for J adapters x (J, T, n), A (J, r, n), B (J, m, r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Compute it, and keep x A^T."""
        low = x @ a.mT
        ctx.scale = scale
        ctx.save_for_backward(x, weight, a, b, low)
        return _products(x, weight, bias, low, b.mT, scale)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        (slope,) = slopes
        x, weight, a, b, low = ctx.saved_tensors
        if torch.is_grad_enabled():  # a double backward has to see where it comes from
            low = x @ a.mT
        through = ctx.scale * (slope @ b)
        of_x = _products(slope, weight.mT, None, through, a, 1.0) if ctx.needs_input_grad[0] else None
        of_b = (low.mT @ slope).mT * ctx.scale  # several times faster than slope^T low
        return of_x, None, None, through.mT @ x, of_b, None


def _products(x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, right: Tensor, scale: float) -> Tensor:
    """x W^T + c + scale * low @ right.

    Where all are in half precision the frozen product comes last, on top of the update: a product adds up in float32
    and is rounded once. An update that is added to what is rounded already is lost wherever it is less than half of the
    last digit there, as that of an adapter is in most places until it has learned much.
    """
    if weight.dtype != x.dtype or x.dtype not in HALF:
        return _add_product(_linear(x, weight, bias), low, right, scale)
    found = _add_product(x.new_empty(*x.shape[:-1], len(weight)), low, right, scale, beta=0)
    found.view(-1, len(weight)).addmm_(x.reshape(-1, x.shape[-1]), weight.mT)
    return found if bias is None else found.add_(bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + c in the type of W, as the type of x."""
    if weight.dtype == x.dtype:
        return functional.linear(x, weight, bias)
    kind = weight.dtype
    return functional.linear(x.to(kind), weight, None if bias is None else bias.to(kind)).to(x.dtype)


def _add_product(to: Tensor, left: Tensor, right: Tensor, scale: float, beta: int = 1) -> Tensor:
    """beta * `to` + scale * left @ right, in the place of `to`."""
    if to.ndim == 2:
        return to.addmm_(left, right, alpha=scale, beta=beta)
    return to.baddbmm_(left, right, alpha=scale, beta=beta)


def adapted_linear(x: Tensor, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What `layer` and an update give, for shapes as above; under autocast in its type."""
    given: list[Any] = [x, frozen(layer.weight), layer.bias, a, b]
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
        given = [None if tensor is None else tensor.to(kind) for tensor in given]
    return AdaptedLinear.apply(*given, scale)  # type: ignore[no-untyped-call,no-any-return]


def quicken(adapted: Any) -> None:
    """Let the LoRA layers of a peft model compute as above, wherever they would compute the same; again after more."""
    from peft.tuners.lora import Linear

    for module in adapted.modules():
        if isinstance(module, Linear) and "forward" not in vars(module):
            module.forward = _quick_forward(module)


@contextmanager
def as_peft_computes(adapted: Any) -> Iterator[None]:
    """Within the block, LoRA layers of a peft model compute as peft made them."""
    quick = [module for module in adapted.modules() if "forward" in vars(module)]
    forwards = [vars(module).pop("forward") for module in quick]
    try:
        yield
    finally:
        for module, forward in zip(quick, forwards, strict=True):
            module.forward = forward


def _quick_forward(layer: Any) -> Any:
    slow = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not _is_plain(layer, x):
            return slow(x, *args, **kwargs)
        base, (adapter,) = layer.get_base_layer(), layer.active_adapters
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        rows = x.reshape(-1, x.shape[-1])
        return adapted_linear(rows, base, a, b, layer.scaling[adapter]).view(*x.shape[:-1], -1)

    return forward


def _is_plain(layer: Any, x: Tensor) -> bool:
    """Whether the layer has the one adapter in use, neither off nor merged nor under dropout, on floats that fit."""
    return (
        not layer.disable_adapters
        and not layer.merged
        and len(layer.active_adapters) == 1
        and layer.active_adapters[0] in layer.lora_A
        and isinstance(layer.lora_dropout[layer.active_adapters[0]], nn.Identity)
        and (torch.is_autocast_enabled(x.device.type) or x.dtype == layer.lora_A[layer.active_adapters[0]].weight.dtype)
    )
