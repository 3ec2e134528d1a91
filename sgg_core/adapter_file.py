"""Adapter files: LoRA weights in one safetensors file, judged by its header alone. Loads no torch, unpacks nothing.

Such a file comes from a checkpoint, from our own adapters, or from PEFT, and is what a run can start from. Weights are
named as PEFT names them (`base_model.model.<layer>.lora_A.weight`); an encoder's head may stand beside them as
`head.weight` and `head.bias`. What the weights do not tell is JSON under the key `sgg` of the file's metadata:
`alpha`, `labels` (of the head) and `base_model_sha256`, each of which may be missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from sgg_core.errors import StartingPointError
from sgg_core.shapes import Limits, is_broken
from sgg_core.spec import MAX_TARGET_CHARS, MOST_TARGETS

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HEAD = "head.safetensors"
MANIFEST = "sgg.json"
MAX_HEADER_BYTES = 4 * 2**20
MAX_CONFIG_BYTES = 2**20
MOST_EXTENTS = 8  # of a tensor; a layer's have two
SHA256_CHARS = 64
BYTES_OF = {"F32": 4, "F16": 2, "BF16": 2}
WEIGHT = re.compile(r"(?P<layer>base_model\.model\..+)\.(?P<side>lora_[AB])(\.default)?\.weight")
BESIDE = re.compile(r"(head|source\d+)\.(weight|bias)")
# What else PEFT's LoRA can be told changes what the weights mean.
PLAIN = {"use_rslora": False, "use_dora": False, "lora_bias": False, "bias": "none", "rank_pattern": {}}
PLAIN |= {"alpha_pattern": {}, "modules_to_save": None, "fan_in_fan_out": False, "layer_replication": None}
BESIDE_THE_BASE = ("gaussian", "orthogonal", "eva")
"""Ways of drawing the first weights that leave the base model as it is."""
REMEDY = "Use the adapter_model.safetensors of a LoRA adapter that PEFT or this program saved."

Header = dict[str, dict[str, Any]]


class AdapterMetadata(BaseModel):
    """What an adapter's weights do not tell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    alpha: float | None = Field(default=None, gt=0, le=1024)
    labels: tuple[str, ...] | None = None
    base_model_sha256: str | None = None

    def for_file(self) -> dict[str, str]:
        """The file's metadata."""
        return {"sgg": json.dumps(self.model_dump(exclude_none=True), sort_keys=True)}


class AdapterFacts(BaseModel):
    """What a header says of an adapter. `targets` are the last parts of the adapted layers' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    targets: tuple[str, ...]
    layers: int
    metadata: AdapterMetadata = AdapterMetadata()

    def lora(self) -> dict[str, Any]:
        """The values of a LoraSpec that fit the adapter, as far as they are known."""
        known: dict[str, Any] = {"rank": self.rank, "targets": self.targets}
        return known if self.metadata.alpha is None else known | {"alpha": self.metadata.alpha}


def read_header(stream: BinaryIO, size: int, name: str) -> tuple[Header, dict[str, str]]:
    """The tensors and the metadata of a safetensors file of `size` bytes. Raises StartingPointError."""
    try:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"it does not begin with the length of a header of at most {MAX_HEADER_BYTES:,} bytes")
        header = json.loads(stream.read(length), object_pairs_hook=_without_doubles)
        metadata = header.pop("__metadata__", {})
        _check_layout(header, size - 8 - length)
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata holds values that are not strings")
        if any(map(is_broken, (*header, *metadata, *metadata.values()))):
            raise ValueError("a name or the metadata holds a NUL character or half of a surrogate pair")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StartingPointError(f"{name} is not a usable safetensors file: {error}.", REMEDY) from error
    return header, metadata


def read_facts(stream: BinaryIO, size: int, name: str) -> AdapterFacts:
    """Judge an adapter file. Raises StartingPointError naming what is wrong."""
    header, metadata = read_header(stream, size, name)
    ranks: set[int] = set()
    sides: dict[str, set[str]] = {}
    for tensor, entry in header.items():
        found = WEIGHT.fullmatch(tensor)
        if found is None:
            if not BESIDE.fullmatch(tensor):
                raise StartingPointError(f"{name}: the tensor {tensor!r:.200} is not a LoRA weight.", REMEDY)
            continue
        if len(entry["shape"]) != 2:
            raise StartingPointError(
                f"{name}: {tensor:.200} has the shape {entry['shape']}, and is not a matrix.", REMEDY
            )
        ranks.add(entry["shape"][0 if found["side"] == "lora_A" else 1])
        sides.setdefault(found["layer"], set()).add(found["side"])
    halves = [layer for layer, found_sides in sides.items() if len(found_sides) != 2]
    if not sides or halves:
        what = f"{halves[0]:.200} has only one of lora_A and lora_B" if halves else "it holds no LoRA weights"
        raise StartingPointError(f"{name}: {what}.", REMEDY)
    if len(ranks) != 1 or not 1 <= min(ranks) <= 256:
        what = f"its layers have the ranks {sorted(ranks)!s:.200}; all must have the same rank, from 1 to 256"
        raise StartingPointError(f"{name}: {what}.", REMEDY)
    targets = tuple(sorted({layer.rsplit(".", 1)[-1] for layer in sides}))
    if len(targets) > MOST_TARGETS:
        what = f"it adapts layers of {len(targets)} different names; at most {MOST_TARGETS} are supported"
        raise StartingPointError(f"{name}: {what}.", REMEDY)
    longest = max(targets, key=len)
    if len(longest) > MAX_TARGET_CHARS:
        what = f"the layer name {longest[:40]!r}... has {len(longest):,} characters; the limit is {MAX_TARGET_CHARS}"
        raise StartingPointError(f"{name}: {what}.", REMEDY)
    return AdapterFacts(rank=ranks.pop(), targets=targets, layers=len(sides), metadata=_own(metadata, name))


def facts_of(path: Path) -> AdapterFacts:
    """Judge an adapter file, an adapter directory or a checkpoint. Raises StartingPointError."""
    file = path / ADAPTER if path.is_dir() else path
    if not file.is_file():
        raise StartingPointError(f"{path.name} {f'has no {ADAPTER}' if path.is_dir() else 'does not exist'}.", REMEDY)
    with file.open("rb") as stream:
        facts = read_facts(stream, file.stat().st_size, path.name)
    if path.is_dir() and facts.metadata == AdapterMetadata():
        facts = facts.model_copy(update={"metadata": read_directory_metadata(path)})
    return facts


def read_directory_metadata(directory: Path) -> AdapterMetadata:
    """What the files beside a directory's weights tell: sgg.json of ours, adapter_config.json of PEFT's.

    Raises StartingPointError for a kind of adapter that is not supported.
    """
    manifest = _json(directory / MANIFEST)
    config = _json(directory / CONFIG)
    if config:
        odd = [name for name, plain in PLAIN.items() if config.get(name) not in (plain, None, [], {}, False)]
        if isinstance(begun := config.get("init_lora_weights"), str) and begun not in BESIDE_THE_BASE:
            odd.append(f"init_lora_weights {begun}")  # its A and B are relative to a base model that PEFT changes
        if config.get("peft_type") != "LORA" or odd:
            what = f"it sets {', '.join(odd)}" if odd else f"its peft_type is {config.get('peft_type')!r}"
            raise StartingPointError(f"{directory.name}/{CONFIG}: {what}; only plain LoRA is supported.", REMEDY)
    try:
        found = AdapterMetadata(
            alpha=config.get("lora_alpha"),
            labels=manifest.get("labels"),
            base_model_sha256=manifest.get("base_model_sha256"),
        )
        _check_names(found)
    except ValueError as error:  # pydantic's ValidationError among them
        raise StartingPointError(f"{directory.name} cannot be read: {error!s:.500}.", REMEDY) from error
    return found


def pack(directory: Path, target: Path) -> AdapterFacts:
    """Write an adapter directory's weights, head and metadata as one adapter file. Raises StartingPointError."""
    metadata = read_directory_metadata(directory)
    parts = [path for path in (directory / ADAPTER, directory / HEAD) if path.is_file()]
    if not parts or parts[0].name != ADAPTER:
        raise StartingPointError(f"{directory.name} has no {ADAPTER}.", REMEDY)
    merged: Header = {}
    offset, starts = 0, []
    for path in parts:
        with path.open("rb") as stream:
            header, own = read_header(stream, path.stat().st_size, path.name)
            starts.append(stream.tell())
        if path.name == ADAPTER and "sgg" in own:
            metadata = _own(own, path.name)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            prefix = "head." if path.name == HEAD else ""
            merged[prefix + name] = entry | {"data_offsets": [begin + offset, end + offset]}
        offset += path.stat().st_size - starts[-1]
    text = json.dumps({"__metadata__": metadata.for_file(), **merged}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as packed:
        packed.write(len(text).to_bytes(8, "little") + text)
        for path, start in zip(parts, starts, strict=True):
            packed.write(path.read_bytes()[start:])
    with target.open("rb") as stream:
        return read_facts(stream, target.stat().st_size, directory.name)


def canonical(name: str) -> str:
    """A weight's name without the adapter's own name in it, under which PEFT saves it."""
    return name.replace(".default.", ".")


def _own(metadata: Mapping[str, str], name: str) -> AdapterMetadata:
    try:
        found = AdapterMetadata.model_validate_json(metadata.get("sgg", "{}"))
        _check_names(found)
    except ValueError as error:  # pydantic's ValidationError among them
        what = f"the metadata under `sgg` cannot be read: {error!s:.500}"
        raise StartingPointError(f"{name}: {what}.", REMEDY) from error
    return found


def _check_names(found: AdapterMetadata) -> None:
    """Hold an adapter's labels to the limits of data files. Raises ValueError."""
    labels, limits = found.labels or (), Limits()
    if len(labels) > limits.max_labels:
        raise ValueError(f"it names {len(labels):,} labels; the limit is {limits.max_labels:,}")
    longest = max(map(len, labels), default=0)
    if longest > limits.max_label_chars:
        raise ValueError(f"a label has {longest:,} characters; the limit is {limits.max_label_chars}")
    if any(map(is_broken, labels)):
        raise ValueError("a label holds a NUL")
    if len(found.base_model_sha256 or "") > SHA256_CHARS:
        raise ValueError(f"base_model_sha256 is longer than {SHA256_CHARS} characters")


def _check_layout(header: Header, data_bytes: int) -> None:
    """Every tensor has as many bytes as its shape needs, and together they are the data, without gaps."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        length = BYTES_OF.get(entry["dtype"], 0)
        if not length:
            raise ValueError(f"{name!r:.200} is of type {entry['dtype']!r:.20}; use one of {', '.join(BYTES_OF)}")
        shape = entry["shape"]
        # a product of many extents would be a number of so many digits
        if len(shape) > MOST_EXTENTS or not all(isinstance(extent, int) and extent > 0 for extent in shape):
            raise ValueError(f"{name!r:.200} has the shape {shape[: MOST_EXTENTS + 1]!r:.100}")
        length *= math.prod(shape)
        if begin != at or end != at + length:
            raise ValueError(f"the bytes of {name!r:.200} do not match its shape and place")
        at = end
    if at != data_bytes:
        raise ValueError(f"it has {data_bytes:,} bytes of data, and its tensors {at:,}")


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise StartingPointError(f"{path.name} is not valid JSON: {error}.", REMEDY) from error
    return found if isinstance(found, dict) else {}
