"""How far the answers of a classification adapter are from those in float32 where it is served in half precision.

    python benchmarks/precision.py ADAPTER FILE

FILE holds labelled examples. The base model with the adapter beside it as peft computes, and with the adapter merged
into its weights, is cast to bfloat16 and to float16; `error` is the root mean square of the differences of
log-probabilities, `largest` the largest of them, `other label` the share of examples that get another label.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from sgg_core.base_loading import load_base
from sgg_core.card import table
from sgg_core.catalogue import Catalogue
from sgg_core.evaluation import probe_values
from sgg_core.examples import read_examples
from sgg_core.manifest import verify_weights
from sgg_core.predictor import task_of
from sgg_store.settings import StoreSettings


def answers(adapter: Path, file: Path) -> Iterator[tuple[str, Tensor]]:
    """(N, L) log-probabilities in float32, and then in each other way."""
    manifest = verify_weights(adapter)
    base = load_base(Catalogue.load(StoreSettings().catalogue_dir).get(manifest.spec.base_model))
    base = dataclasses.replace(base, halves=None)
    adapted = PeftModel.from_pretrained(base.model, adapter).eval()
    task = task_of(manifest, base, adapter)
    items = task.encode(read_examples(file).examples)

    def asked(kind: torch.dtype) -> Tensor:
        weights = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
        adapted.to(kind)
        parts = [probe_values(task, items[start : start + 32]) for start in range(0, len(items), 32)]
        adapted.to(torch.float32)
        adapted.load_state_dict(weights)
        return torch.cat(parts).float()

    yield "float32", asked(torch.float32)
    for way in ("beside", "merged"):
        if way == "merged":
            adapted.merge_adapter()
        for kind in (torch.bfloat16, torch.float16):
            yield f"{str(kind).removeprefix('torch.')}, {way}", asked(kind)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    ((_, exact), *others) = answers(given.adapter, given.file)
    rows = [
        [
            way,
            f"{(found - exact).square().mean().sqrt():.3f}",
            f"{(found - exact).abs().max():.2f}",
            f"{100 * (found.argmax(1) != exact.argmax(1)).double().mean():.1f} %",
        ]
        for way, found in others
    ]
    print(table(["precision, adapter", "error", "largest", "other label"], rows))


if __name__ == "__main__":
    main()
