"""A LoRA adapter's modules on a base model, which can be taken off and put on again.

peft takes as long to make them as many steps of a small job take. So a base model keeps those of its last job, and the
next one with the same settings finds them there, with weights as if they were made for it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sgg_core.adapted_linear import quicken
from sgg_core.seeding import derived_seed
from sgg_core.spec import LoraSpec
from sgg_core.torch_seeding import torch_seed
from sgg_core.weights import AdapterWeights


class Mounted:
    """An adapter on `model` with a peft configuration of the rank and scale in `spec`. Its weights are for `reset`."""

    def __init__(self, model: Any, config: Any, spec: LoraSpec) -> None:
        from peft import get_peft_model
        from peft.tuners.lora import LoraLayer

        self.spec, self._model = spec, model
        self.adapted: Any = get_peft_model(model, config)
        quicken(self.adapted)
        named = {name: parameter for name, parameter in self.adapted.named_parameters() if parameter.requires_grad}
        self.weights = AdapterWeights(named, spec.rank, spec.alpha / spec.rank)
        self._layers: list[tuple[nn.Module, str, Any]] = []
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                parent, _, last = name.rpartition(".")
                self._layers.append((model.get_submodule(parent), last, module))

    def suits(self, spec: LoraSpec) -> bool:
        """Whether it is what a new one would be, but for the weights."""
        return self.spec == spec and all(
            layer.get_base_layer().weight.dtype == self.weights.flat.dtype for _, _, layer in self._layers[:1]
        )

    def reset(self, seed: int) -> None:
        """Bring the weights to what peft makes of this seed: B zero, A uniform. It draws three times for each layer."""
        drawn = []
        with torch_seed(derived_seed(seed, "lora")), torch.no_grad():
            for _, _, layer in self._layers:
                (name,) = layer.active_adapters
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                torch.empty(a.shape).uniform_()
                torch.empty(b.shape).uniform_()
                bound = 1.0 / math.sqrt(a.shape[1])
                drawn += [torch.empty(a.shape).uniform_(-bound, bound).reshape(-1), torch.zeros(b.numel())]
            self.weights.flat.copy_(torch.cat(drawn))
        self.weights.forget()

    def put_on(self) -> None:
        """Let the model compute with the adapter again."""
        for parent, last, layer in self._layers:
            setattr(parent, last, layer)
        self._model.peft_config = self.adapted.peft_config

    def take_off(self) -> None:
        """Leave the model as it was without it."""
        for parent, last, layer in self._layers:
            setattr(parent, last, layer.get_base_layer())
        del self._model.peft_config
