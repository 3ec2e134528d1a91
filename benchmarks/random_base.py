"""Base models with random weights in the shape of known ones, for measurements of time, which weights do not change.

    python benchmarks/random_base.py --out DIR [--tokenizer DIRECTORY] [SHAPE ...]

writes each model to DIR/SHAPE and names it in DIR/base-models.json, so that `SGG_DATA_DIR=DIR sgg bench ...` knows it.
Without --tokenizer, a text has as many tokens as bytes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from sgg_core.catalogue import BaseModelEntry, Catalogue, DirectorySource
from sgg_core.tiny import save_tiny_base

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2-135m-random": (
        "Llama",
        {
            "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3,
        },
    ),
    "qwen3-0.6b-random": (
        "Qwen3",
        {
            "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        },
    ),
}  # fmt: skip


def write(name: str, directory: Path, tokenizer: Path | None) -> BaseModelEntry:
    """Write the model and a tokenizer; gives its entry in the catalogue."""
    import transformers

    family, shape = SHAPES[name]
    config = getattr(transformers, f"{family}Config")(
        **shape, max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=2, bos_token_id=1, pad_token_id=2
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    save_tiny_base(directory)  # for its tokenizer
    model.save_pretrained(directory)
    if tokenizer is not None:
        for file in tokenizer.glob("*token*"):
            shutil.copy(file, directory / file.name)
    return BaseModelEntry(
        name=name,
        kind="causal",
        source=DirectorySource(path=directory.resolve()),
        description="Random weights, for measurements of time.",
        parameters=sum(weights.numel() for weights in model.parameters()),
        context_tokens=8192,
    )


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a data directory")
    parser.add_argument("--tokenizer", type=Path, help="directory with tokenizer.json and tokenizer_config.json")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    catalogue = Catalogue.load(arguments.out)
    for name in arguments.shapes or SHAPES:
        catalogue.add(write(name, arguments.out / name, arguments.tokenizer))
        print(f"{name}: {arguments.out / name}")


if __name__ == "__main__":
    main()
