"""A tiny mixture of experts, whose layers see the tokens of all rows of a batch in one heap."""

from __future__ import annotations

from pathlib import Path

from sgg_core.catalogue import BaseModelEntry
from sgg_core.tiny import CONTEXT_TOKENS, save_tiny_base
from sgg_core.torch_seeding import torch_seed


def save_tiny_mixture(directory: Path) -> BaseModelEntry:
    """Write one to a directory in Hugging Face layout; returns an entry for the catalogue."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    entry = save_tiny_base(directory)  # for its tokenizer
    shape = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    special = {"eos_token_id": 256, "bos_token_id": 257, "pad_token_id": 258}
    config = Qwen2MoeConfig(
        **shape,
        **experts,
        **special,
        num_key_value_heads=2,
        shared_expert_intermediate_size=32,
        max_position_embeddings=CONTEXT_TOKENS,
    )
    with torch_seed(0):
        Qwen2MoeForCausalLM(config).save_pretrained(directory)
    return entry.model_copy(update={"name": "tiny-mixture"})
