"""LoRA adapters on the linear layers of a base model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sgg_core.backbone import LoadedBase
from sgg_core.errors import SpecError
from sgg_core.imports import without_collector
from sgg_core.mounted import Mounted
from sgg_core.spec import LoraSpec


def linear_layers(base: LoadedBase) -> dict[str, nn.Linear]:
    """The linear layers by their full names, without the output layer and whatever adapters are on the model."""
    output = base.model.get_output_embeddings()
    return {
        name.removesuffix(".base_layer"): layer
        for name, layer in base.model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not output and ".lora_" not in name
    }


def adapted_names(base: LoadedBase, spec: LoraSpec) -> list[str]:
    """Last names of the layers that get an adapter. Raises SpecError if a target names no linear layer."""
    known = sorted({name.rsplit(".", 1)[-1] for name in linear_layers(base)})
    if not known:
        raise SpecError(f"Base model {base.entry.name!r} has no linear layer to adapt.", "Choose another base model.")
    if spec.targets == "all-linear":
        return known
    missing = [target for target in sorted(spec.targets) if target not in known]
    if missing:
        raise SpecError(f"lora.targets: no linear layer is named {', '.join(missing)}.", f"Known: {known}.")
    return sorted(spec.targets)


def count_adapter_weights(base: LoadedBase, spec: LoraSpec) -> int:
    """How many weights an adapter would have."""
    names = adapted_names(base, spec)
    layers = [layer for name, layer in linear_layers(base).items() if name.rsplit(".", 1)[-1] in names]
    return sum(spec.rank * (layer.in_features + layer.out_features) for layer in layers)


@contextmanager
def lora(base: LoadedBase, spec: LoraSpec, seed: int) -> Iterator[Any]:
    """The base model with a fresh adapter (A random from `seed`, B zero) as a peft model; taken off again at the end.

    Raises SpecError if a target names no linear layer.
    """
    mounted, base.resting = base.resting, None
    if mounted is not None and mounted.suits(spec):
        mounted.put_on()
    else:
        mounted = Mounted(base.model, _peft_config(base, spec), spec)
    mounted.reset(seed)
    base.adapter = mounted.weights
    try:
        yield mounted.adapted
    except BaseException:
        take_off(base, mounted.adapted)
        raise
    mounted.take_off()
    base.adapter = None
    base.resting = mounted if spec.dropout == 0.0 else None  # a run may leave dropout in any state


def _peft_config(base: LoadedBase, spec: LoraSpec) -> Any:
    with without_collector():
        from peft import LoraConfig, TaskType

    targets = adapted_names(base, spec)
    names = "|".join(re.escape(target) for target in targets)
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        # As a pattern for encoders: those who load the adapter by peft alone still have the pooler, without an adapter.
        target_modules=targets if base.entry.kind == "causal" else rf"(?!pooler\.)(?:.*\.)?(?:{names})",
        bias="none",
        task_type=TaskType.CAUSAL_LM if base.entry.kind == "causal" else TaskType.FEATURE_EXTRACTION,
    )


def take_off(base: LoadedBase, adapted: Any) -> None:
    """Remove an adapter from its base model, which is left as it was loaded."""
    adapted.unload()
    base.adapter = None
    base.model.requires_grad_(False)
    if hasattr(base.model, "peft_config"):
        del base.model.peft_config
