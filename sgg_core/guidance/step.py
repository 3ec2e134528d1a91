"""The guided step's passes: gradients of the target and source batches, the perturbed second pass, and the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.gradients import Gradient, combined, cosine, norm, scaled, unit
from sgg_core.guidance import alignment
from sgg_core.guidance.direction import EmaReference
from sgg_core.guidance.guide import Strengths, combine, every_kth, perturbation, ramp
from sgg_core.guidance.magnitude import LogNormClip
from sgg_core.seeding import derived_seed, torch_seed
from sgg_core.spec import GuidanceSpec
from sgg_core.tasks.task import Task


@dataclass(frozen=True)
class BatchGradient:
    """Mean loss of a batch, share of right units, and the gradient: one tensor per parameter."""

    loss: float
    accuracy: float
    gradient: Gradient


def batch_gradient(task: Task, items: Sequence[Encoded], parameters: Sequence[Parameter], seed: int) -> BatchGradient:
    """Gradient of the mean loss over `items`, in passes of bounded size. `seed` fixes dropout.

    Raises TrainingDivergedError where the loss or the gradient is not finite.
    """
    device = parameters[0].device
    units = task.units(items)
    total = torch.zeros((), device=device)
    correct = 0
    for parameter in parameters:
        parameter.grad = None
    with torch_seed(seed):
        for group in task.passes(items):
            part = task.loss([items[index] for index in group])
            (part.total / units).backward()  # type: ignore[no-untyped-call]
            total += part.total.detach()
            correct += part.correct
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss = float(total) / units
    if not torch.isfinite(torch.stack([part.sum() for part in gradient]).sum() + total):
        raise TrainingDivergedError(
            f"The loss or its gradient is not finite (loss {loss}).",
            "Lower the learning rate, or check the data for extreme texts.",
        )
    return BatchGradient(loss, correct / units, gradient)


def hessian_vector_product(
    task: Task, items: Sequence[Encoded], parameters: Sequence[Parameter], vector: Sequence[Tensor], seed: int
) -> Gradient:
    """H v of the mean loss over `items` by double backward (Pearlmutter 1994), with the dropout of `seed`."""
    units = task.units(items)
    product = [torch.zeros_like(parameter) for parameter in parameters]
    # Fused attention kernels have no second derivative.
    with torch_seed(seed), sdpa_kernel(SDPBackend.MATH):
        for group in task.passes(items):
            loss = task.loss([items[index] for index in group]).total / units
            slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
            along = torch.stack([(slope * part).sum() for slope, part in zip(slopes, vector, strict=True)]).sum()
            parts = torch.autograd.grad(along, parameters, materialize_grads=True)
            torch._foreach_add_(product, list(parts))
    return product


@contextmanager
def displaced(parameters: Sequence[Parameter], by: Sequence[Tensor]) -> Iterator[None]:
    """Parameters at theta + `by` for the length of a block; restored from a copy, bit for bit."""
    copies = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            torch._foreach_add_(list(parameters), list(by))
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), copies)


@dataclass(frozen=True)
class StepOutcome:
    """What one guided step found. `gradient` is what the optimizer sees; norm and cosines are of the raw gradient."""

    gradient: Gradient
    source_gradient: Gradient | None  # of the source task's own parameters' list
    loss: float
    accuracy: float
    gradient_norm: float
    reference_cosine: float | None
    clipped: bool
    source_cosine: float | None
    source_weight: float | None


@dataclass(frozen=True)
class SourceBatch:
    """A batch of a source task. `shared` of its leading parameters are the target's as well (the adapter)."""

    task: Task
    items: Sequence[Encoded]
    parameters: Sequence[Parameter]
    shared: int


class GuidedStep:
    """Gradients for the optimizer, one step after the other, by structured gradient guidance for one job.

    With `spec` None nothing is added to the raw gradient, and only telemetry is kept. `reference`, `clip`, `agreement`
    and `previous` (v_a of the last step, at full strength; empty but with the variant `momentum`) are the state that a
    checkpoint has to carry.
    """

    def __init__(self, task: Task, parameters: Sequence[Parameter], spec: GuidanceSpec | None, seed: int) -> None:
        self.task = task
        self.parameters = parameters
        self.spec = spec
        self.seed = seed
        self.reference = EmaReference(spec.ema_beta if spec else 0.9)
        self.clip = LogNormClip(spec.clip_z) if spec and spec.clip_z is not None else None
        self.agreement = alignment.SmoothedCosine()
        self.previous: Gradient = []

    def take(
        self, step: int, strength: float, items: Sequence[Encoded], source: SourceBatch | None = None
    ) -> StepOutcome:
        """One step's gradient on a batch of the target task, with the factor `strength` on all regularizers."""
        with self._ahead(strength):
            if self.spec is not None and self.spec.reference == "split":
                raw, measured, direction = self._halves(step, items)
            else:
                raw = measured = self._gradient(step, items)
                direction = self.reference.direction()
        reference_cosine = None if direction is None else cosine(measured.gradient, direction)
        gradient_norm = norm(raw.gradient)
        from_source = self._source(step, source) if source is not None else None
        shared = None if from_source is None or source is None else self._widened(from_source, source.shared)
        gradient = raw.gradient
        if self.spec is not None:
            gradient = self._regularized(step, strength, items, raw, measured, direction, shared)
        mixed, source_cosine, source_weight = self._aligned(gradient, raw.gradient, shared)
        factor = self.clip.scale(gradient_norm) if self.clip is not None else 1.0
        self.reference.update(raw.gradient)
        return StepOutcome(
            gradient=mixed if factor == 1.0 else scaled(mixed, factor),
            source_gradient=from_source,
            loss=raw.loss,
            accuracy=raw.accuracy,
            gradient_norm=gradient_norm,
            reference_cosine=reference_cosine,
            clipped=factor < 1.0,
            source_cosine=source_cosine,
            source_weight=source_weight,
        )

    def strength(self, step: int, total_steps: int, warmup_fraction: float) -> float:
        """The factor on all strengths at `step`."""
        if self.spec is None:
            return 0.0
        ramped = ramp(step, total_steps, warmup_fraction, self.spec.ramp_fraction)
        return every_kth(step, ramped, self.spec.every)

    def _ahead(self, strength: float) -> AbstractContextManager[None]:
        """Parameters at theta + r v_a of the last step for the variant `momentum`, else where they are.

        A displacement by r v_a instead of r v/|v| makes the one gradient g + r H v_a itself, up to the order of r^2.
        """
        if self.spec is None or not self.previous or strength == 0.0:
            return nullcontext()
        return displaced(self.parameters, scaled(self.previous, self.spec.radius * strength))

    def _gradient(self, step: int, items: Sequence[Encoded]) -> BatchGradient:
        return batch_gradient(self.task, items, self.parameters, derived_seed(self.seed, "dropout", step))

    def _halves(self, step: int, items: Sequence[Encoded]) -> tuple[BatchGradient, BatchGradient, Gradient | None]:
        """The whole batch's gradient, one class-balanced half's, and the direction of the other half's."""
        if len(items) < 2:
            whole = self._gradient(step, items)
            return whole, whole, None
        first, second = balanced_halves(items)
        parts = [self._gradient(step, half) for half in (first, second)]
        units = [self.task.units(half) for half in (first, second)]
        shares = [count / sum(units) for count in units]
        whole = BatchGradient(
            loss=sum(share * part.loss for share, part in zip(shares, parts, strict=True)),
            accuracy=sum(share * part.accuracy for share, part in zip(shares, parts, strict=True)),
            gradient=combined([(share, part.gradient) for share, part in zip(shares, parts, strict=True)]),
        )
        return whole, parts[0], unit(parts[1].gradient)

    def _source(self, step: int, source: SourceBatch) -> Gradient:
        seed = derived_seed(self.seed, "source dropout", step)
        return batch_gradient(source.task, source.items, source.parameters, seed).gradient

    def _widened(self, gradient: Gradient, shared: int) -> Gradient:
        """A source gradient as one over the target's parameters: zero where they share nothing."""
        return gradient[:shared] + [torch.zeros_like(parameter) for parameter in self.parameters[shared:]]

    def _regularized(
        self,
        step: int,
        strength: float,
        items: Sequence[Encoded],
        raw: BatchGradient,
        measured: BatchGradient,
        direction: Gradient | None,
        source: Gradient | None,
    ) -> Gradient:
        """grad J by the spec's variant, on the items whose gradient was `measured`."""
        assert self.spec is not None
        momentum = self.spec.variant == "momentum"
        strengths = Strengths(self.spec.magnitude, self.spec.direction, self.spec.alignment)
        v = perturbation(
            measured.gradient,
            strengths if momentum else strengths.times(strength),
            direction,
            None if source is None else unit(source),
            self.spec.magnitude_threshold,
        )
        if momentum:
            self.previous = v or []
            return raw.gradient
        along = None if v is None else unit(v)
        if v is None or along is None:
            return raw.gradient
        half = items if measured is raw else balanced_halves(items)[0]
        if self.spec.variant == "exact":
            seed = derived_seed(self.seed, "dropout", step)
            product = hessian_vector_product(self.task, half, self.parameters, v, seed)
            return combined([(1.0, raw.gradient), (self.spec.radius, product)])
        with displaced(self.parameters, scaled(along, self.spec.radius)):
            perturbed = self._gradient(step, half).gradient
        if measured is raw:
            return combine(raw.gradient, perturbed, v)
        correction = combined([(1.0, combine(measured.gradient, perturbed, v)), (-1.0, measured.gradient)])
        return combined([(1.0, raw.gradient), (1.0, correction)])

    def _aligned(
        self, gradient: Gradient, target: Gradient, source: Gradient | None
    ) -> tuple[Gradient, float | None, float | None]:
        """The gradient with the source's share added, the raw cosine, and the share's weight."""
        if source is None or self.spec is None:
            return gradient, None, None
        agreement = cosine(target, source)
        smoothed = self.agreement.update(agreement)
        helpful = alignment.without_conflict(source, target)
        weight = alignment.weight(
            smoothed, norm(helpful), norm(target), self.spec.source_cap, self.spec.source_weight == "gated"
        )
        return (alignment.mixed(gradient, helpful, weight) if weight > 0.0 else gradient), agreement, weight


def balanced_halves(items: Sequence[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """Two halves with each label's items split evenly, in the batch's order; both non-empty for two or more items."""
    order = sorted(range(len(items)), key=lambda index: (items[index].label, index))
    return [items[index] for index in order[::2]], [items[index] for index in order[1::2]]
