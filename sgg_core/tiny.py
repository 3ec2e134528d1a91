"""A tiny random base model with a byte-level tokenizer: real code paths in milliseconds, for tests and first tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from sgg_core.backbone import LoadedBase
from sgg_core.base_files import quiet_transformers
from sgg_core.base_loading import prepared
from sgg_core.catalogue import BaseModelEntry, DirectorySource
from sgg_core.seeding import derived_seed
from sgg_core.torch_seeding import torch_seed

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CONTEXT_TOKENS = 1024


def tiny_base(kind: Literal["causal", "encoder"] = "causal", seed: int = 0) -> LoadedBase:
    """A two-layer model of width 32 with random weights, in memory, on the CPU."""
    entry = tiny_entry(Path("/nonexistent"), kind)
    return prepared(entry, _model(kind, seed), _tokenizer(kind), f"tiny-{kind}-{seed}", None, torch.device("cpu"))


def save_tiny_base(directory: Path, kind: Literal["causal", "encoder"] = "causal", seed: int = 0) -> BaseModelEntry:
    """Write such a model to a directory in Hugging Face layout; returns an entry for the catalogue."""
    with quiet_transformers():
        _model(kind, seed).save_pretrained(directory)
        _tokenizer(kind).save_pretrained(directory)
    return tiny_entry(directory, kind)


def tiny_entry(directory: Path, kind: Literal["causal", "encoder"]) -> BaseModelEntry:
    """The catalogue entry of a tiny base model in `directory`, named tiny-causal or tiny-encoder."""
    return BaseModelEntry(
        name=f"tiny-{kind}",
        kind=kind,
        source=DirectorySource(path=directory.resolve()),
        description="Tiny random weights.",
        context_tokens=CONTEXT_TOKENS,
    )


def _tokenizer(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # nosec B106 # names of tokens
        tokenizer_object=inner, eos_token="<|end|>", bos_token="<|start|>", pad_token="<|pad|>"
    )
    if kind == "causal":
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _model(kind: str, seed: int) -> Any:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch_seed(derived_seed(seed, "tiny", kind)):
        if kind == "causal":
            special = {"eos_token_id": 256, "bos_token_id": 257, "pad_token_id": 258}  # nosec B105 # ids of tokens
            return LlamaForCausalLM(
                LlamaConfig(**shape, **special, intermediate_size=64, max_position_embeddings=CONTEXT_TOKENS)
            )
        return BertModel(BertConfig(**shape, intermediate_size=64, max_position_embeddings=CONTEXT_TOKENS))
