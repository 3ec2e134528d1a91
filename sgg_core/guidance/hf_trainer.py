"""Guidance for those who train with transformers' Trainer: the same, with guided gradients.

    trainer = GuidedTrainer(model=model, args=arguments, train_dataset=rows, guidance=GuidanceSpec())
    trainer.train()

A complete example is examples/guided_trainer.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import Trainer

from sgg_core.guidance.closures import ClosureBatch
from sgg_core.guidance.layers import FACTOR_A
from sgg_core.guidance.step import GuidedStep, StepOutcome
from sgg_core.spec import GuidanceSpec


class GuidedTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, whose optimizer sees guided gradients; without source tasks, with the reference `ema`.

    With gradient accumulation every micro-batch is guided by itself. `outcome` is what the newest one found. The
    guidance's own state is not in Trainer's checkpoints: a resumed run gathers its reference anew.
    """

    def __init__(self, *arguments: Any, guidance: GuidanceSpec | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.guidance = guidance or GuidanceSpec()
        self.outcome: StepOutcome | None = None
        self._guided: GuidedStep | None = None
        if self.guidance.reference in ("split", "base_kl", "anchor"):
            raise ValueError(f"GuidedTrainer has no reference {self.guidance.reference!r}: use 'ema'.")
        if self.accelerator.scaler is not None or self.accelerator.num_processes > 1 or self.args.n_gpu > 1:
            raise ValueError("GuidedTrainer runs in one process on one device, without fp16: set bf16, or neither.")

    def training_step(
        self, model: Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add the guided gradient of a batch to the parameters' `grad`; returns the loss."""
        model.train()
        prepared = self._prepare_inputs(inputs)
        guided = self._guided or self._begin(model)
        batch = ClosureBatch(lambda: self._scaled_loss(model, prepared, num_items_in_batch), guided.parameters)
        warmup = self.args.get_warmup_steps(self.state.max_steps) / self.state.max_steps
        strength = guided.strength(self.state.global_step + 1, self.state.max_steps, warmup)
        self.outcome = guided.take(batch, strength)
        for parameter, gradient in zip(guided.parameters, self.outcome.gradient, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return torch.tensor(self.outcome.loss, device=self.args.device)

    def _begin(self, model: Module) -> GuidedStep:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        spec = None if self.guidance.variant == "off" else self.guidance
        self._guided = GuidedStep(list(named.values()), spec, list(named), _lora_scales(model))
        return self._guided

    def _scaled_loss(self, model: Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """The loss as Trainer takes it: a micro-batch's share of its step."""
        with self.compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, dict(inputs), num_items_in_batch=num_items_in_batch)
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or bool(self.compute_loss_func)
        return loss if scaled else loss / self.current_gradient_accumulation_steps


def _lora_scales(model: Module) -> dict[str, float]:
    """alpha / rank of each layer that peft has adapted, by the name of its A."""
    return {
        f"{name}{FACTOR_A}{adapter}.weight": float(scale)
        for name, module in model.named_modules()
        if isinstance(scaling := getattr(module, "scaling", None), dict)
        for adapter, scale in scaling.items()
    }
