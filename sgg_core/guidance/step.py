"""The guided step: gradients of the target and source batches, the perturbed second pass, and the mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from sgg_core.gradients import Gradient, Vector, combined, cosine, cosine_of, norm, scaled, unit
from sgg_core.guidance import alignment
from sgg_core.guidance.direction import EmaReference
from sgg_core.guidance.guide import Strengths, combine, every_kth, perturbation, ramp
from sgg_core.guidance.layers import factor_pairs, layers
from sgg_core.guidance.magnitude import LogNormClip
from sgg_core.guidance.passes import Batch, BatchGradient, SourceBatch, displaced
from sgg_core.guidance.projection import Arrangement, projected_products
from sgg_core.spec import GuidanceSpec
from sgg_core.weights import as_one


@dataclass(frozen=True)
class Projected:
    """Norm and cosines of P(G): what does not depend on how an update is split into two factors."""

    gradient_norm: float
    reference_cosine: float | None
    source_cosine: float | None


@dataclass(frozen=True)
class StepOutcome:
    """What one guided step found. `gradient` is what the optimizer sees.

    Norm and cosines are of the raw gradient: at the parameters themselves, but with the variant `momentum` where its
    one gradient is taken. `projected` is None where no parameter is a LoRA factor. Cosines and weight of sources are
    means over the step's sources; `source_gradients` are over the sources' own parameters.
    """

    gradient: Gradient
    source_gradients: tuple[Gradient, ...]
    loss: float
    accuracy: float | None
    gradient_norm: float
    reference_cosine: float | None
    projected: Projected | None
    clipped: bool
    source_cosine: float | None
    source_weight: float | None
    layer_source_cosines: dict[str, float] | None


@dataclass(frozen=True)
class Measured:
    """The step's raw gradient and, with the reference `split`, the half that is compared with the other one."""

    raw: BatchGradient
    part: BatchGradient
    batch: Batch
    direction: Gradient | None


@dataclass(frozen=True)
class GuidedState:
    """What a GuidedStep has gathered from step to step: all that a checkpoint has to carry of it.

    `vectors` are the average of the reference, v_a of the last step and theta_0, each empty where there is none. `clip`
    are count, mean and variance of log-norms. Of each source there are `agreements`, number of updates and average for
    each part of the gradient, and a `trust`.
    """

    vectors: dict[str, Gradient]
    reference_updates: int
    clip: tuple[int, float, float] | None
    agreements: dict[int, list[tuple[int, float]]]
    trust: dict[int, float]


class GuidedStep:
    """Gradients for the optimizer, one step after the other, by structured gradient guidance for one job.

    With `spec` None nothing is added to the raw gradient, and only telemetry is kept. `names` of the parameters tell
    layers and LoRA factors, with the `scale` s of their updates s B A (see `factor_pairs`). `previous` is v_a of the
    last step, at full strength, and empty but with the variant `momentum`; `origin` is theta_0. Raises ValueError for
    parameters in half precision.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        spec: GuidanceSpec | None,
        names: Sequence[str] = (),
        scale: float | Mapping[str, float] = 1.0,
    ) -> None:
        if spec is not None and any(each.dtype in (torch.float16, torch.bfloat16) for each in parameters):
            raise ValueError(
                "Guidance moves parameters by steps too small for half precision. Keep the trained parameters in "
                "float32, and let autocast run the passes in half precision."
            )
        self.parameters = parameters
        self.spec = spec
        self.pairs = factor_pairs(names, scale)
        self._arrangement: Arrangement | None = None
        self.layers = layers(names or ["all"] * len(parameters))
        self.reference = EmaReference(spec.ema_beta if spec else 0.9)
        self.clip = LogNormClip(spec.clip_z) if spec and spec.clip_z is not None else None
        self.agreement: dict[int, list[alignment.SmoothedCosine]] = {}
        self.trust: dict[int, float] = {}
        self.origin: Gradient = ()
        self.previous: Gradient = ()

    def begin(self, support: Sequence[Batch]) -> None:
        """Take in where the run starts: the mean gradient of the support set's batches for the reference `anchor`, and
        the parameters for `base_kl`."""
        reference = None if self.spec is None else self.spec.reference
        if reference == "base_kl":
            self.origin = [parameter.detach().clone() for parameter in self.parameters]
        if reference == "anchor":
            self.reference.anchor(combined([(1 / len(support), batch.gradient().gradient) for batch in support]))

    def state(self) -> GuidedState:
        """What has been gathered so far. The vectors are not copied."""
        clip = self.clip
        return GuidedState(
            vectors={"reference": self.reference.average, "previous": self.previous, "origin": self.origin},
            reference_updates=self.reference.updates,
            clip=(clip.count, clip.mean, clip.variance) if clip else None,
            agreements={
                number: [(part.updates, part.average) for part in parts] for number, parts in self.agreement.items()
            },
            trust=dict(self.trust),
        )

    def restore(self, state: GuidedState) -> None:
        """Go on from there."""
        self.reference.average, self.reference.updates = state.vectors["reference"], state.reference_updates
        self.reference.anchored = self.spec is not None and self.spec.reference == "anchor"
        self.previous = state.vectors["previous"]
        if self.spec is not None and self.spec.reference == "base_kl":
            self.origin = [part.clone() for part in state.vectors["origin"]]
        if self.clip is not None and state.clip is not None:
            self.clip.count, self.clip.mean, self.clip.variance = state.clip
        self.agreement = {
            number: [alignment.SmoothedCosine.restored(*part) for part in parts]
            for number, parts in state.agreements.items()
        }
        self.trust = dict(state.trust)

    def strength(self, step: int, total_steps: int, warmup_fraction: float) -> float:
        """The factor on all strengths at `step`."""
        if self.spec is None:
            return 0.0
        ramped = ramp(step, total_steps, warmup_fraction, self.spec.ramp_fraction)
        return every_kth(step, ramped, self.spec.every)

    def take(self, batch: Batch, strength: float, sources: Sequence[SourceBatch] = ()) -> StepOutcome:
        """One step's gradient on a batch of the target task, with the factor `strength` on all regularizers."""
        with self._ahead(strength):
            found = self._measured(batch)
        raw = found.raw.gradient
        own = [source.batch.gradient().gradient for source in sources]
        shared = [self._widened(gradient, source.shared) for gradient, source in zip(own, sources, strict=True)]
        gradient = raw
        if self.spec is not None:
            towards = combined([(1.0, vector) for vector in shared]) if shared else None
            gradient = self._regularized(self.spec, strength, found, towards)
        gradient, shares = self._aligned(gradient, raw, shared, [source.number for source in sources])
        gradient_norm = norm(raw)
        factor = self.clip.scale(gradient_norm) if self.clip is not None else 1.0
        projected = self._projected(found, shared)
        self.reference.update(raw)
        return StepOutcome(
            gradient=gradient if factor == 1.0 else scaled(gradient, factor),
            source_gradients=tuple(own),
            loss=found.raw.loss,
            accuracy=found.raw.accuracy,
            gradient_norm=gradient_norm,
            reference_cosine=None if found.direction is None else cosine(found.part.gradient, found.direction),
            projected=projected,
            clipped=factor < 1.0,
            source_cosine=_mean([share.cosine for share in shares]),
            source_weight=_mean([share.weight for share in shares]),
            layer_source_cosines=self._layer_cosines(raw, shared),
        )

    def _ahead(self, strength: float) -> AbstractContextManager[None]:
        """Parameters at theta + r v_a of the last step for the variant `momentum`, else where they are.

        A displacement by r v_a instead of r v/|v| makes the one gradient g + r H v_a itself, up to the order of r^2.
        """
        if self.spec is None or not self.previous or strength == 0.0:
            return nullcontext()
        return displaced(self.parameters, scaled(self.previous, self.spec.radius * strength))

    def _measured(self, batch: Batch) -> Measured:
        """Gradients at the parameters, and the reference direction from what the step has not seen."""
        halves = batch.halves() if self.spec is not None and self.spec.reference == "split" else None
        if halves is not None:
            (share, first), (rest, second) = halves
            parts = first.gradient(), second.gradient()
            whole = BatchGradient(
                loss=share * parts[0].loss + rest * parts[1].loss,
                accuracy=_shared(share, parts[0].accuracy, rest, parts[1].accuracy),
                gradient=combined([(share, parts[0].gradient), (rest, parts[1].gradient)]),
            )
            return Measured(whole, parts[0], first, unit(parts[1].gradient))
        raw = batch.gradient()
        return Measured(raw, raw, batch, self._direction(batch))

    def _direction(self, batch: Batch) -> Gradient | None:
        """The reference direction, but for `split`."""
        kind = self.spec.reference if self.spec is not None else "ema"
        if kind == "split":
            return None
        if kind == "base_kl":
            # At the start there is no drift, and its gradient is rounding that points nowhere.
            drift = unit(batch.drift(self.origin)) if self.reference.updates >= self.reference.warm_up else None
            return None if drift is None else scaled(drift, -1.0)
        return self.reference.direction()

    def _widened(self, gradient: Gradient, shared: int) -> Gradient:
        """A source gradient as one over the target's parameters: zero where they share nothing."""
        if shared == len(gradient) == len(self.parameters):
            return gradient
        parts = [*gradient[:shared], *(torch.zeros_like(parameter) for parameter in self.parameters[shared:])]
        return Vector.of(parts) if isinstance(gradient, Vector) else parts

    def _regularized(self, spec: GuidanceSpec, strength: float, found: Measured, source: Gradient | None) -> Gradient:
        """grad J by the spec's variant."""
        raw, part = found.raw.gradient, found.part.gradient
        momentum = spec.variant == "momentum"
        strengths = Strengths(spec.magnitude, spec.direction, spec.alignment)
        v = perturbation(
            part,
            strengths if momentum else strengths.times(strength),
            found.direction,
            None if source is None else unit(source),
            spec.magnitude_threshold,
        )
        if momentum:
            self.previous = () if v is None else v
            return raw
        along = None if v is None else unit(v)
        if v is None or along is None:
            return raw
        if spec.variant == "exact":
            return combined([(1.0, raw), (spec.radius, found.batch.product(v))])
        with displaced(self.parameters, scaled(along, spec.radius)):
            perturbed = found.batch.gradient().gradient
        corrected = combine(part, perturbed, v)
        return corrected if part is raw else combined([(1.0, raw), (1.0, corrected), (-1.0, part)])

    def _aligned(
        self, gradient: Gradient, target: Gradient, sources: Sequence[Gradient], numbers: Sequence[int]
    ) -> tuple[Gradient, list[alignment.SourceShare]]:
        """The gradient with the sources' shares added, and the shares. The target's raw gradient has priority."""
        if self.spec is None or not sources:
            return gradient, []
        if self.spec.source_weight == "equal":
            return self._of_equal_rank(gradient, target, sources)
        parts = [layer.members for layer in self.layers] if self.spec.source_scope == "layer" else [self._all()]
        shares = [
            alignment.share(target, source, parts, self._agreement(number, len(parts)), *self._wish(number))
            for source, number in zip(sources, numbers, strict=True)
        ]
        helpful = [(1.0, share.added) for share in shares if share.weight > 0.0]
        return (combined([(1.0, gradient), *helpful]) if helpful else gradient), shares

    def _of_equal_rank(
        self, gradient: Gradient, target: Gradient, sources: Sequence[Gradient]
    ) -> tuple[Gradient, list[alignment.SourceShare]]:
        """The combination that turns against none of the tasks."""
        own, *weights = alignment.equal_rank_weights([gradient, *sources])
        shares = [
            alignment.SourceShare(scaled(source, weight), cosine(target, source), weight)
            for source, weight in zip(sources, weights, strict=True)
        ]
        return combined([(own, gradient), *((1.0, share.added) for share in shares)]), shares

    def _wish(self, number: int) -> tuple[float | None, float]:
        """The weight that a source shall have (None: by its cosine), and the cap on its share."""
        assert self.spec is not None
        if self.spec.source_weight == "cross_fitted":
            return self.trust.get(number, 0.0), math.inf
        return (1.0 if self.spec.source_weight == "fixed" else None), self.spec.source_cap

    def _agreement(self, number: int, parts: int) -> list[alignment.SmoothedCosine]:
        """The running cosines of one source, one for each part."""
        return self.agreement.setdefault(number, [alignment.SmoothedCosine() for _ in range(parts)])

    def _all(self) -> tuple[int, ...]:
        return tuple(range(len(self.parameters)))

    def _layer_cosines(self, target: Gradient, sources: Sequence[Gradient]) -> dict[str, float] | None:
        """cos(g_T, g_S) of each layer that a source shares, as the mean over the step's sources."""
        if not sources:
            return None
        found: dict[str, float] = {}
        for layer in self.layers:
            pairs = [([target[i] for i in layer.members], [source[i] for i in layer.members]) for source in sources]
            if any(norm(of_source) > 0.0 for _, of_source in pairs):
                found[layer.name] = sum(cosine(*pair) for pair in pairs) / len(pairs)
        return found

    def _projected(self, found: Measured, sources: Sequence[Gradient]) -> Projected | None:
        if not self.pairs:
            return None
        if self._arrangement is None:
            self._arrangement = Arrangement.of(self.parameters, self.pairs)
        raw, part = found.raw.gradient, found.part.gradient
        whole = [raw, *sources] + ([] if found.direction is None else [found.direction])
        whole += [] if part is raw else [part]
        products = projected_products(as_one(self.parameters), whole, self._arrangement)
        compared = (0, -1) if part is raw else (-1, -2)
        return Projected(
            gradient_norm=math.sqrt(max(0.0, products[0][0])),
            reference_cosine=None if found.direction is None else cosine_of(products, *compared),
            source_cosine=_mean([cosine_of(products, 0, 1 + number) for number in range(len(sources))]),
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _shared(share: float, first: float | None, rest: float, second: float | None) -> float | None:
    return None if first is None or second is None else share * first + rest * second
