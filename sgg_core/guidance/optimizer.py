"""Guidance for a training loop of your own: a wrapper around any torch optimizer.

    optimizer = GuidedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-3), total_steps=len(batches))
    for batch in batches:
        optimizer.step(lambda: loss_of(model, batch))

The function computes the loss and calls no backward; the wrapper takes the gradients, as often as the variant needs,
and the wrapped optimizer sees one gradient a step. A complete example is examples/guided_loop.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from sgg_core.guidance.closures import Closure, ClosureBatch
from sgg_core.guidance.passes import SourceBatch
from sgg_core.guidance.step import GuidedState, GuidedStep, StepOutcome
from sgg_core.spec import GuidanceSpec


class GuidedOptimizer(Optimizer):
    """An optimizer (any but LBFGS, which calls closures itself) that sees guided gradients of what it optimizes.

    `total_steps` and `warmup_fraction` are those of the loop's schedule: the strengths rise after the warm-up. `names`
    of the parameters, in the optimizer's order, tell layers and LoRA factors, with their `scale` alpha / rank, of all
    adapted layers or of each by the name of its A. Learning
    rate schedulers take the wrapper as they take any optimizer. `outcome` is what the newest step found.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        guidance: GuidanceSpec | None = None,
        *,
        total_steps: int,
        warmup_fraction: float = 0.1,
        names: Sequence[str] = (),
        scale: float | Mapping[str, float] = 1.0,
    ) -> None:
        # No super().__init__(): groups, state and defaults are the wrapped optimizer's own.
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.warmup_fraction = warmup_fraction
        self.steps = 0
        self.outcome: StepOutcome | None = None
        spec = guidance or GuidanceSpec()
        if spec.source_weight == "cross_fitted":
            raise ValueError("source_weight 'cross_fitted' needs sgg_core.trainer. Use another source_weight.")
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.guided = GuidedStep(parameters, None if spec.variant == "off" else spec, names, scale)
        self._begun = False

    def begin(self, loss: Closure) -> None:
        """Start from the loss of all training examples, which the reference `anchor` wants before the first step."""
        self.guided.begin([ClosureBatch(loss, self.guided.parameters)])
        self._begun = True

    def step(  # type: ignore[override]
        self,
        closure: Closure,
        *,
        halves: tuple[Closure, Closure] | None = None,
        divergence: Closure | None = None,
        sources: Sequence[Closure] = (),
    ) -> float:
        """One guided step on the loss that `closure` computes; returns it.

        `sources` compute losses of source tasks, always in the same order. `halves` and `divergence` belong to the
        references `split` and `base_kl`. Raises ValueError where the guidance lacks what it needs.
        """
        parameters: list[Parameter] = list(self.guided.parameters)
        batch = ClosureBatch(closure, parameters, halves, divergence)
        if not self._begun:
            if self.guided.spec is not None and self.guided.spec.reference == "anchor":
                raise ValueError("guidance.reference 'anchor' needs begin(loss of all examples) before the first step.")
            self.begin(closure)
        strength = self.guided.strength(self.steps + 1, self.total_steps, self.warmup_fraction)
        others = [
            SourceBatch(ClosureBatch(source, parameters), len(parameters), number)
            for number, source in enumerate(sources)
        ]
        self.outcome = self.guided.take(batch, strength, others)
        for parameter, gradient in zip(parameters, self.outcome.gradient, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return self.outcome.loss

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing that matters here: every step begins with gradients of its own."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state and the guidance's: enough to go on as if nothing had happened."""
        gathered = vars(self.guided.state())
        return {
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "begun": self._begun,
            "guidance": gathered | {"vectors": _copies(gathered["vectors"])},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.steps, self._begun = state_dict["steps"], state_dict["begun"]
        gathered = state_dict["guidance"]
        self.guided.restore(GuidedState(**gathered | {"vectors": _copies(gathered["vectors"])}))


def _copies(vectors: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    return {name: [torch.clone(part) for part in vector] for name, vector in vectors.items()}
