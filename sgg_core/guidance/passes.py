"""How the guided step has its gradients: the seam `Batch`, batches of a task behind it, and who computes them.

The step's arithmetic knows no network. A `Batch` is one batch with its randomness fixed, at whatever values the
parameters have when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgg_core.backbone import backward
from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.gradients import Gradient, Vector
from sgg_core.tasks.task import Task
from sgg_core.torch_seeding import torch_seed
from sgg_core.weights import added_up, in_blocks


@dataclass(frozen=True)
class BatchGradient:
    """Mean loss of a batch, share of right units where it is known, and the gradient: one tensor per parameter."""

    loss: float
    accuracy: float | None
    gradient: Gradient


class Batch(Protocol):
    """One batch of one task. Every pass over it sees the same dropout."""

    def gradient(self) -> BatchGradient:
        """Loss and gradient at the parameters' present values."""

    def product(self, vector: Sequence[Tensor]) -> Gradient:
        """Hessian-vector product H v of the loss by double backward."""

    def halves(self) -> tuple[tuple[float, Batch], tuple[float, Batch]] | None:
        """Two class-balanced halves and their shares in the mean loss; None where these cannot learn what it does."""

    def drift(self, origin: Sequence[Tensor]) -> Gradient:
        """Gradient of KL(p at `origin` || p at the present parameters) on the batch's inputs."""


@dataclass(frozen=True)
class SourceBatch:
    """A batch of source task `number`. The first `shared` parts of its gradient are the target's too (the adapter)."""

    batch: Batch
    shared: int
    number: int = 0


Kind = Literal["gradient", "product", "drift"]


@dataclass(frozen=True)
class Share:
    """Some items of a task's batch, run in passes of bounded size. What all shares of a batch compute adds up to its.

    `units` are those of the whole batch, over which its loss is a mean. `seed` fixes dropout.
    """

    task: Task
    items: Sequence[Encoded]
    parameters: Sequence[Parameter]
    units: int
    seed: int

    def compute(self, kind: Kind, vector: Sequence[Tensor] = ()) -> list[Tensor]:
        """One vector (P) over all parameters; after a gradient, also the summed loss, and how many units were right."""
        if kind == "gradient":
            return self._gradient()
        return self._product(vector) if kind == "product" else self._drift(vector)

    def _gradient(self) -> list[Tensor]:
        total = torch.zeros((), device=self.parameters[0].device)
        correct = 0
        with torch_seed(self.seed), self._added_up() as gradient:
            for items in self._passes():
                part = self.task.loss(items)
                backward(self.task.base, part.total / self.units)
                total += part.total.detach()
                correct += part.correct
        return [*gradient, total, total.new_tensor(float(correct))]

    def _product(self, vector: Sequence[Tensor]) -> list[Tensor]:
        product = torch.cat([torch.zeros_like(parameter).reshape(-1) for parameter in self.parameters])
        with torch_seed(self.seed):
            for items in self._passes():
                with twice_differentiable():
                    loss = self.task.loss(items).total / self.units
                    product += Vector.of(hessian_vector_product(loss, self.parameters, vector)).flat
        return [product]

    def _drift(self, origin: Sequence[Tensor]) -> list[Tensor]:
        with torch_seed(self.seed), self._added_up() as gradient:
            for items in self._passes(scoring=True):
                with placed(self.parameters, origin), torch.no_grad():
                    before = self.task.log_probabilities(items)
                now = self.task.log_probabilities(items)
                backward(self.task.base, (before.exp() * (before - now)).sum() / self.units)
        return gradient

    @contextmanager
    def _added_up(self) -> Iterator[list[Tensor]]:
        """A list that holds, after the block, what backward passes within it added up to; `grad` is left empty."""
        found: list[Tensor] = []
        adapter = self.task.base.adapter
        if adapter is not None and not adapter.leads(self.parameters):
            adapter = None
        rest = self.parameters[0 if adapter is None else len(adapter.parameters) :]

        def forget() -> None:
            for parameter in rest:
                parameter.grad = None
            if adapter is not None:
                adapter.forget()

        forget()
        try:
            yield found
            parts = [] if adapter is None else adapter.gradients()
            found.append(torch.cat([part.reshape(-1) for part in (*parts, *map(added_up, rest))]))
        finally:
            forget()

    def _passes(self, scoring: bool = False) -> Iterator[list[Encoded]]:
        """Items that fit one forward pass; none where nothing is to be learned, as in an empty share."""
        if self.task.units(self.items):
            for group in self.task.passes(self.items, scoring):
                yield [self.items[index] for index in group]


class Team(Protocol):
    """Several processes that compute each batch together (sgg_core.team)."""

    def summed(self, share: Share, kind: Kind, vector: Sequence[Tensor]) -> list[Tensor]:
        """What `share.compute` gives, each process computing a part of the share's items."""


@dataclass(frozen=True)
class TaskBatch:
    """Encoded items of a task, computed by this process, or by the base model's team. `seed` fixes dropout."""

    task: Task
    items: Sequence[Encoded]
    parameters: Sequence[Parameter]
    seed: int

    def gradient(self) -> BatchGradient:
        """Gradient of the mean loss. Raises TrainingDivergedError where the loss or the gradient is not finite."""
        flat, total, correct = self._computed("gradient")
        gradient = self._vector(flat)
        units = max(1, self.task.units(self.items))
        loss = float(total) / units
        check_finite(loss, gradient)
        return BatchGradient(loss, float(correct) / units, gradient)

    def product(self, vector: Sequence[Tensor]) -> Gradient:
        """H v of the mean loss (Pearlmutter 1994)."""
        return self._vector(*self._computed("product", vector))

    def halves(self) -> tuple[tuple[float, Batch], tuple[float, Batch]] | None:
        """Each label's items, every other one. None, too, where halves would learn less than the whole batch does:
        contrast needs two items of a label in each.
        """
        if len(self.items) < 2:
            return None
        first, second = (TaskBatch(self.task, half, self.parameters, self.seed) for half in balanced_halves(self.items))
        units, *of_halves = (self.task.units(each.items) for each in (self, first, second))
        if sum(of_halves) < units:
            return None
        share = of_halves[0] / max(1, units)
        return (share, first), (1.0 - share, second)

    def drift(self, origin: Sequence[Tensor]) -> Gradient:
        """Mean over the units of KL(p at `origin` || p); needs no label."""
        return self._vector(*self._computed("drift", origin))

    def _vector(self, flat: Tensor) -> Vector:
        return Vector(flat, [parameter.shape for parameter in self.parameters])

    def _computed(self, kind: Kind, vector: Sequence[Tensor] = ()) -> list[Tensor]:
        share = Share(self.task, self.items, self.parameters, max(1, self.task.units(self.items)), self.seed)
        team = self.task.base.team
        return share.compute(kind, vector) if team is None else team.summed(share, kind, vector)


def check_finite(loss: float, gradient: Sequence[Tensor]) -> None:
    """Raise TrainingDivergedError unless the loss and every part of the gradient are finite."""
    parts = [gradient.flat] if isinstance(gradient, Vector) else gradient
    if not torch.isfinite(torch.stack([part.sum() for part in parts]).sum() + loss):
        raise TrainingDivergedError(
            f"The loss or its gradient is not finite (loss {loss}).",
            "Lower the learning rate, or check the data for extreme texts.",
        )


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """A block without fused attention kernels, which have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def hessian_vector_product(loss: Tensor, parameters: Sequence[Parameter], vector: Sequence[Tensor]) -> list[Tensor]:
    """H v of a scalar with graph, by double backward."""
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    along = torch.stack([(slope * part).sum() for slope, part in zip(slopes, vector, strict=True)]).sum()
    return list(torch.autograd.grad(along, parameters, materialize_grads=True))


@contextmanager
def displaced(parameters: Sequence[Parameter], by: Sequence[Tensor]) -> Iterator[None]:
    """Parameters at theta + `by` for the length of a block; restored from a copy, bit for bit."""
    blocks, parts = in_blocks(parameters, by)
    with _restored(blocks):
        with torch.no_grad():
            torch._foreach_add_(blocks, parts)
        yield


@contextmanager
def placed(parameters: Sequence[Parameter], at: Sequence[Tensor]) -> Iterator[None]:
    """Parameters at `at` for the length of a block; restored from a copy, bit for bit."""
    blocks, parts = in_blocks(parameters, at)
    with _restored(blocks):
        with torch.no_grad():
            torch._foreach_copy_(blocks, parts)
        yield


@contextmanager
def _restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    copies = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(tensors), copies)


def balanced_halves(items: Sequence[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """Two halves with each label's items split evenly, in the batch's order; both non-empty for two or more items."""
    order = sorted(range(len(items)), key=lambda index: (items[index].label, index))
    return [items[index] for index in order[::2]], [items[index] for index in order[1::2]]
