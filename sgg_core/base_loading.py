"""Base models from their files into memory, frozen and ready for adapters."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sgg_core.backbone import LoadedBase, hidden_states
from sgg_core.base_files import cache_directory, quiet_transformers, refuse_foreign_code, weights_directory
from sgg_core.base_limits import check_configuration
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import BaseModelUnavailableError
from sgg_core.files import sha256_of
from sgg_core.halves import wanted_halves
from sgg_core.imports import without_collector
from sgg_core.memory import lacks_memory
from sgg_core.packing import pack
from sgg_core.texts_in_rows import let_share_rows

PROBE = ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 9, 8, 7, 6, 5))
"""Two texts that begin alike, as token ids."""
TELLING = 1e-3  # of the states' size, in float32: half precision would move those of special tokens by a third


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(entry: BaseModelEntry, cache: Path | None = None, device: torch.device | None = None) -> LoadedBase:
    """Load an entry of the catalogue in float32 (passes use bf16 autocast on a GPU, and `halves` on some CPUs).

    Raises BaseModelUnavailableError where files are missing, damaged or of a kind that cannot be trained.
    """
    directory = weights_directory(entry, cache or cache_directory())
    return load_directory(entry, directory, device or default_device())


def load_directory(entry: BaseModelEntry, directory: Path, device: torch.device) -> LoadedBase:
    """Load a directory in Hugging Face layout: safetensors only, and never code that comes with the weights."""
    with without_collector():
        from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    refuse_foreign_code(entry.name, directory)
    auto = AutoModelForCausalLM if entry.kind == "causal" else AutoModel
    try:
        with quiet_transformers():
            model, told = auto.from_pretrained(
                directory,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # a directory of this machine
                directory, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelUnavailableError(
            f"Base model {entry.name!r} cannot be loaded from {directory}: {error}",
            "Check that the directory holds config.json, a tokenizer and model.safetensors.",
        ) from error
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))  # prepared() drops that
    if missing:
        raise BaseModelUnavailableError(
            f"Base model {entry.name!r}: the weights in {directory} lack {len(missing)} tensor(s), e.g. {missing[0]}.",
            "Check that the files are complete and that the entry's kind, causal or encoder, is right.",
        )
    weights = sorted(directory.glob("*.safetensors"))
    digest = hashlib.sha256("".join(sha256_of(path) for path in weights).encode()).hexdigest()
    base = prepared(entry, model, tokenizer, digest, directory, device)
    return replace(base, halves=wanted_halves(device))


def prepared(
    entry: BaseModelEntry, model: Any, tokenizer: Any, digest: str, directory: Path | None, device: torch.device
) -> LoadedBase:
    """Freeze the model, drop what is never used, and check that it can be trained here."""
    if entry.kind == "encoder" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # mean pooling takes its place; an unused layer would get an adapter
    if entry.kind == "encoder":
        let_share_rows(model)
    check_configuration(entry, model.config.to_dict())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    model.eval()
    if entry.kind == "causal":
        _check_rows(LoadedBase(entry, model, tokenizer, digest, directory, torch.device("cpu")))
    return LoadedBase(entry, model.to(device), tokenizer, digest, directory, device)


@torch.no_grad()
def _check_rows(base: LoadedBase) -> None:
    """Make sure that texts which share a row get the states that each would get alone. Looks on the CPU, in float32.

    Raises BaseModelUnavailableError.
    """
    packed = pack(PROBE, base.device)
    try:
        together = hidden_states(base, packed.ids, packed.mask, packed.positions)[0]
        for row, ids in enumerate(PROBE):
            alone = hidden_states(
                base,
                torch.tensor([ids], device=base.device),
                torch.ones(1, len(ids), dtype=torch.long, device=base.device),
                torch.arange(len(ids), device=base.device)[None],
            )[0]
            places = [packed.place(row, position) for position in range(len(ids))]
            apart = float((together[places] - alone).norm() / alone.norm())
            if not apart < TELLING:
                raise ValueError(f"its states change by {100 * apart:.2g} % beside another text")
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if lacks_memory(error):
            raise
        raise BaseModelUnavailableError(
            f"Base model {base.entry.name!r} cannot read several texts in one row: {error}.",
            "Use a model with attention layers only and rotary positions, such as Llama, Qwen2 or SmolLM2.",
        ) from error
