"""Where base models' files lie: found, converted or downloaded, and looked at before anything is loaded from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sgg_core.catalogue import BaseModelEntry, DirectorySource, HubSource, PackageSource
from sgg_core.errors import BaseModelUnavailableError
from sgg_core.files import exclusive, sha256_of, whole_directory
from sgg_core.imports import without_collector


def cache_directory() -> Path:
    """Where converted base models are kept: $SGG_CACHE_DIR or ~/.cache/sgg, in base-models/."""
    root = os.environ.get("SGG_CACHE_DIR")
    return (Path(root) if root else Path.home() / ".cache" / "sgg") / "base-models"


def weights_directory(entry: BaseModelEntry, cache: Path) -> Path:
    """The directory with the entry's config, tokenizer and safetensors; converts a GGUF file on first use."""
    source = entry.source
    if isinstance(source, PackageSource):
        found = source.locate()
        return found if found.is_dir() else converted_gguf(entry.name, found, cache)
    if isinstance(source, DirectorySource):
        if not (source.path / "config.json").is_file():
            raise BaseModelUnavailableError(
                f"Base model {entry.name!r}: {source.path} has no config.json.",
                "Point the entry at a directory in Hugging Face layout.",
            )
        return source.path
    return hub_snapshot(entry.name, source)


def hub_snapshot(name: str, source: HubSource) -> Path:
    """Files of a pinned Hugging Face revision, from the local hub cache or, where that is allowed, downloaded."""
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(source.repo_id, revision=source.revision, allow_patterns=wanted))
    except Exception as error:
        raise BaseModelUnavailableError(
            f"Base model {name!r}: {source.repo_id}@{source.revision} cannot be found here: {error}",
            f"Run `hf download {source.repo_id} --revision {source.revision}` on this machine once.",
        ) from error


def converted_gguf(name: str, gguf: Path, cache: Path) -> Path:
    """The GGUF file de-quantized to float32 safetensors, in a cache directory named after the file's hash.

    Raises BaseModelUnavailableError for a damaged file, DiskFullError where the cache has no space.
    """
    target = cache / f"{name}-{sha256_of(gguf)[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / f"{name}.lock"):
        if not target.exists():
            with whole_directory(target) as work:
                _dequantize(name, gguf, work)
    return target


def _dequantize(name: str, gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        try:
            loaded = AutoModelForCausalLM.from_pretrained(  # nosec B615 # a directory of this machine
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)  # nosec B615 # the same
        except Exception as error:  # a reader of a binary format fails in many ways
            raise BaseModelUnavailableError(
                f"Base model {name!r}: {gguf} cannot be read: {error}", "Install the package that holds it again."
            ) from error
        config = loaded.config
        del config.quantization_config
        config._name_or_path = ""
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)


def refuse_foreign_code(name: str, directory: Path) -> None:
    """Raise BaseModelUnavailableError if the config asks for code from outside transformers."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelUnavailableError(f"Base model {name!r}: config.json cannot be read: {error}") from error
    suspicious = [key for key, value in config.items() if "implementation" in key and "/" in str(value)]
    if "auto_map" in config or suspicious:
        raise BaseModelUnavailableError(
            f"Base model {name!r} brings code of its own ({', '.join(suspicious) or 'auto_map'}).",
            "Only architectures that transformers implements itself are loaded.",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' progress bars and hints; errors still raise."""
    with without_collector():
        from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
