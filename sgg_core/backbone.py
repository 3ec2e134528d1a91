"""Base models: finding their files, loading them, and putting LoRA adapters on them. The base weights stay frozen."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sgg_core.catalogue import BaseModelEntry, DirectorySource, HubSource, PackageSource
from sgg_core.errors import BaseModelUnavailableError, SpecError
from sgg_core.files import exclusive, sha256_of, whole_directory
from sgg_core.halves import Halves, wanted_halves
from sgg_core.imports import without_collector
from sgg_core.mounted import Mounted
from sgg_core.spec import LoraSpec
from sgg_core.texts_in_rows import Texts, let_share_rows
from sgg_core.weights import AdapterWeights

if TYPE_CHECKING:
    from sgg_core.guidance.passes import Team
    from sgg_core.packed.network import StackedNetwork

# Settings by which a model changes its logits after the output layer; ours are taken from that layer directly.
UNSUPPORTED_LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale")

# Who may look at whom: a padding mask (B, T), a full one (B, 1, T, T), or the texts that lie in each row.
Mask = Tensor | Texts


class Rendezvous(Protocol):
    """Where the training passes of jobs that share a base model meet (sgg_core.packed)."""

    def states(self, ids: Tensor, mask: Mask, positions: Tensor | None, types: Tensor | None) -> Tensor:
        """What `hidden_states` gives, as a leaf of the job's own graph."""

    def backward(self) -> None:
        """Carry the gradients of those leaves through the network, into the adapter's `grad`."""

    def rest(self, until: Callable[[], bool]) -> None:
        """Wait until another job has brought something about."""

    def bring(self, jobs: Sequence[Callable[[LoadedBase], object]]) -> list[object]:
        """Let further jobs meet there, each with a base model of its own, and wait for what they return or raise."""


@dataclass
class LoadedBase:
    """A base model in memory, ready for one adapter after another.

    `sha256` is that of the weights as loaded (after de-quantization); `directory` is where they lie. With a
    `rendezvous`, passes that are to have a gradient are made there; with a `team`, other processes help with batches.
    `adapter` is what is on it just now, `resting` what the last job has left beside it.
    """

    entry: BaseModelEntry
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    sha256: str
    directory: Path | None
    device: torch.device
    rendezvous: Rendezvous | None = None
    team: Team | None = None
    adapter: AdapterWeights | None = None
    resting: Mounted | None = None
    halves: Halves | None = None
    """On a CPU, what products with frozen weights are computed with."""
    spare: list[LoadedBase] = field(default_factory=list)
    """Modules of their own around the same weights, for jobs that are trained together."""
    stacked: StackedNetwork | None = None
    """Those that such jobs share."""

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return int(self.model.config.hidden_size)

    @property
    def products(self) -> torch.dtype:
        """What an adapter's own products are computed in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return torch.bfloat16 if self.device.type == "cuda" else dtype


def cache_directory() -> Path:
    """Where converted base models are kept: $SGG_CACHE_DIR or ~/.cache/sgg, in base-models/."""
    root = os.environ.get("SGG_CACHE_DIR")
    return (Path(root) if root else Path.home() / ".cache" / "sgg") / "base-models"


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(entry: BaseModelEntry, cache: Path | None = None, device: torch.device | None = None) -> LoadedBase:
    """Load an entry of the catalogue in float32 (passes use bf16 autocast on a GPU, and `halves` on some CPUs).

    Raises BaseModelUnavailableError where files are missing, damaged or of a kind that cannot be trained.
    """
    directory = weights_directory(entry, cache or cache_directory())
    return load_directory(entry, directory, device or default_device())


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
            f"Base model {name!r}: {source.repo_id}@{source.revision} cannot be had: {error}",
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
            "Check the files, and whether it is a causal language model or an encoder.",
        )
    weights = sorted(directory.glob("*.safetensors"))
    digest = hashlib.sha256("".join(sha256_of(path) for path in weights).encode()).hexdigest()
    base = prepared(entry, model, tokenizer, digest, directory, device)
    return replace(base, halves=wanted_halves(device))


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


def prepared(
    entry: BaseModelEntry, model: Any, tokenizer: Any, digest: str, directory: Path | None, device: torch.device
) -> LoadedBase:
    """Freeze the model, drop what is never used, and check that it can be trained here."""
    if entry.kind == "encoder" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # mean pooling takes its place; an unused layer would get an adapter
    if entry.kind == "encoder":
        let_share_rows(model)
    acting = [key for key in UNSUPPORTED_LOGIT_SETTINGS if getattr(model.config, key, None) not in (None, 1.0)]
    if acting:
        raise BaseModelUnavailableError(f"Base model {entry.name!r} sets {', '.join(acting)}, which is not supported.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    model.eval()
    return LoadedBase(entry, model.to(device), tokenizer, digest, directory, device)


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


def _in_half_where_quicker(base: LoadedBase) -> AbstractContextManager[object]:
    if base.halves is not None:
        return base.halves.in_use()
    return torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=base.device.type == "cuda")


def hidden_states(
    base: LoadedBase, ids: Tensor, mask: Mask, positions: Tensor | None = None, types: Tensor | None = None
) -> Tensor:
    """Last hidden states (B, T, d) of token ids (B, T); `Texts` need their positions."""
    if base.rendezvous is not None and torch.is_grad_enabled():
        return base.rendezvous.states(ids, mask, positions, types)
    body, extra = _body(base, mask, positions, types)
    with _in_half_where_quicker(base):
        return body(input_ids=ids, **extra).last_hidden_state  # type: ignore[no-any-return]


def backward(base: LoadedBase, loss: Tensor) -> None:
    """Add the gradient of a loss of `hidden_states` to `grad` of whatever is trained."""
    loss.backward()  # type: ignore[no-untyped-call]
    if base.rendezvous is not None:
        base.rendezvous.backward()


def layer_states(
    base: LoadedBase, ids: Tensor, mask: Mask, positions: Tensor | None = None, types: Tensor | None = None
) -> Sequence[Tensor]:
    """States (B, T, d) of the embeddings and after each layer, with masks as in `hidden_states`."""
    body, extra = _body(base, mask, positions, types)
    with _in_half_where_quicker(base):
        seen = body(input_ids=ids, output_hidden_states=True, **extra)
    return seen.hidden_states  # type: ignore[no-any-return]


def _body(base: LoadedBase, mask: Mask, positions: Tensor | None, types: Tensor | None) -> tuple[Any, dict[str, Any]]:
    """The network below the output layer, and what it is told beside the tokens."""
    causal = base.entry.kind == "causal"
    extra: dict[str, Any] = {"texts" if isinstance(mask, Texts) else "attention_mask": mask}
    if causal:
        extra["use_cache"] = False
    if positions is not None:
        extra["position_ids"] = positions
    if types is not None:
        extra["token_type_ids"] = types
    return base.model.base_model if causal else base.model, extra


def fresh_cache(base: LoadedBase) -> Any:
    """An empty cache of keys and values for `states_after`."""
    from transformers import DynamicCache

    return DynamicCache(config=base.model.config)


def states_after(base: LoadedBase, ids: Tensor, cache: Any, **masks: Tensor) -> Tensor:
    """Last hidden states (1, T, d) of token ids (1, T) that follow those in `cache`, which takes them in, too.

    `masks` are as the model itself takes them; without any, each token sees all before it.
    """
    body = base.model.base_model
    name = (
        "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"
    )  # in older transformers
    with _in_half_where_quicker(base):
        seen = body(input_ids=ids, use_cache=True, **{name: cache}, **masks)
    return seen.last_hidden_state  # type: ignore[no-any-return]


def logits(base: LoadedBase, states: Tensor) -> Tensor:
    """Next-token logits (..., V) in float32 of hidden states (..., d)."""
    with _in_half_where_quicker(base):
        return base.model.get_output_embeddings()(states).float()  # type: ignore[no-any-return]
