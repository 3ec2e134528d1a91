"""What a base model's configuration says it can be used for here. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import BaseModelUnavailableError

# Settings by which a model changes its logits after the output layer; ours are taken from that layer directly.
UNSUPPORTED_LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a token looks at those that a mask shows it, and at no others."""


def window_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens back some of the model's layers look; None where all look back to the beginning.

    Examples that share a row (sgg_core.packing) are told apart by masks of their own, in place of the model's window:
    no longer ones than the window may come in.
    """
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    slides = "sliding_attention" in kinds if kinds else config.get("use_sliding_window") is not False
    return int(window) if window and slides else None


def check_configuration(entry: BaseModelEntry, config: Mapping[str, Any]) -> None:
    """Raise BaseModelUnavailableError for a model that would not compute here what it computes elsewhere."""
    acting = [key for key in UNSUPPORTED_LOGIT_SETTINGS if config.get(key) not in (None, 1.0)]
    if acting:
        raise BaseModelUnavailableError(f"Base model {entry.name!r} sets {', '.join(acting)}, which is not supported.")
    if entry.kind != "causal":
        return
    others = sorted({*(config.get("layer_types") or ()), *(config.get("attention_layers") or ())} - LAYERS - {"global"})
    if others:
        raise BaseModelUnavailableError(
            f"Base model {entry.name!r} has layers of the type {', '.join(others)}, which would let examples packed "
            "into one row influence each other.",
            "Use a model with attention layers only, such as Llama, Qwen2, Qwen3 or SmolLM2.",
        )
    window = window_of(config)
    if window is not None and window < entry.context_tokens:
        raise BaseModelUnavailableError(
            f"Base model {entry.name!r} has layers that look back only {window:,} tokens, but its entry claims a "
            f"context of {entry.context_tokens:,} tokens.",
            f"Add it again with --context-tokens {window}.",
        )
