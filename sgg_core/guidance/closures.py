"""Batches of loops that are not ours: the loss comes from a function that the loop hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from sgg_core.gradients import Gradient
from sgg_core.guidance.passes import (
    Batch,
    BatchGradient,
    check_finite,
    hessian_vector_product,
    twice_differentiable,
)

Closure = Callable[[], Tensor]


class ClosureBatch:
    """One batch, by functions that compute a scalar with its graph, and call no backward.

    `loss` is the mean loss. `halves` are the same of two halves of the batch, as large as each other, for the reference
    `split`; `divergence` is KL(base || tuned) on the batch's inputs, for `base_kl`. The first pass takes torch's random
    numbers as they come, so that a loop sees the stream it would see without guidance; all others see the same again.
    """

    def __init__(
        self,
        loss: Closure,
        parameters: Sequence[Parameter],
        halves: tuple[Closure, Closure] | None = None,
        divergence: Closure | None = None,
    ) -> None:
        self._loss = loss
        self._parameters = parameters
        self._halves = halves
        self._divergence = divergence
        self._random: Tensor | None = None
        self._random_cuda: list[Tensor] = []

    def gradient(self) -> BatchGradient:
        """Loss and gradient. Raises TrainingDivergedError where they are not finite."""
        with self._same_randomness(), torch.enable_grad():
            loss = _scalar(self._loss)
            gradient = _gradient(loss, self._parameters)
        check_finite(float(loss.detach()), gradient)
        return BatchGradient(float(loss.detach()), None, gradient)

    def product(self, vector: Sequence[Tensor]) -> Gradient:
        """H v by double backward."""
        with self._same_randomness(), torch.enable_grad(), twice_differentiable():
            return hessian_vector_product(_scalar(self._loss), self._parameters, vector)

    def halves(self) -> tuple[tuple[float, Batch], tuple[float, Batch]]:
        """The halves that were handed over."""
        if self._halves is None:
            raise ValueError("guidance.reference 'split' needs the losses of two halves: step(loss, halves=(a, b)).")
        first, second = (ClosureBatch(half, self._parameters) for half in self._halves)
        return (0.5, first), (0.5, second)

    def drift(self, origin: Sequence[Tensor]) -> Gradient:
        """Gradient of the divergence that was handed over; the function itself knows the base model."""
        if self._divergence is None:
            raise ValueError("guidance.reference 'base_kl' needs KL(base || tuned): step(loss, divergence=...).")
        with self._same_randomness(), torch.enable_grad():
            return _gradient(_scalar(self._divergence, "divergence"), self._parameters)

    @contextmanager
    def _same_randomness(self) -> Iterator[None]:
        if self._random is None:
            self._random = torch.get_rng_state()
            self._random_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            yield
            return
        with torch.random.fork_rng():
            torch.set_rng_state(self._random)
            if self._random_cuda:
                torch.cuda.set_rng_state_all(self._random_cuda)
            yield


def _scalar(function: Closure, name: str = "loss") -> Tensor:
    """What a function of the loop computes. Raises ValueError where no gradient can be taken of it."""
    found = function()
    if isinstance(found, Tensor) and found.numel() == 1 and found.requires_grad:
        return found
    if not isinstance(found, Tensor):
        what = "nothing" if found is None else f"a {type(found).__name__}"
    elif found.numel() != 1:
        what = f"a tensor of shape {tuple(found.shape)}"
    else:
        what = "a tensor without a graph"
    raise ValueError(
        f"The function that computes the {name} returned {what}. Let it return the mean {name} as a tensor of one "
        "number, with its graph: without detach(), item() or no_grad()."
    )


def _gradient(loss: Tensor, parameters: Sequence[Parameter]) -> Gradient:
    """The gradient of what `_scalar` gave. Raises ValueError where the function has called backward itself."""
    try:
        return list(torch.autograd.grad(loss, parameters, materialize_grads=True))
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise ValueError(
            "A function that computes a loss has called backward(). Let it only compute and return the loss: "
            "the gradients are taken for it."
        ) from error
