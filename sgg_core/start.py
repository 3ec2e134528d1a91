"""Starting a run from weights that another run left: an adapter, a checkpoint, or an adapter of PEFT's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter

from sgg_core.adapter_file import ADAPTER, HEAD, REMEDY, AdapterFacts, canonical, facts_of
from sgg_core.backbone import LoadedBase
from sgg_core.errors import StartingPointError
from sgg_core.files import sha256_of
from sgg_core.spec import LoraSpec
from sgg_core.tasks.task import Task


@dataclass(frozen=True)
class StartingPoint:
    """Weights by their canonical names, an encoder's head if there is one, and what is known of them."""

    name: str
    sha256: str
    facts: AdapterFacts
    weights: Mapping[str, Tensor]
    head: Mapping[str, Tensor]

    def check(self, lora: LoraSpec, base: LoadedBase) -> None:
        """Raise StartingPointError unless the adapter is of this base model, rank and scale."""
        known = self.facts.metadata
        if known.base_model_sha256 not in (None, base.sha256):
            raise StartingPointError(
                f"{self.name} was trained on a base model other than {base.entry.name!r}, or on another version of it.",
                "Start from an adapter of this base model, or train on the base model of that adapter.",
            )
        for setting, here, there in (("rank", lora.rank, self.facts.rank), ("alpha", lora.alpha, known.alpha)):
            if there is not None and here != there:
                raise StartingPointError(
                    f"{self.name} has lora.{setting}={there:g}, and this run would have {here:g}.",
                    f"Leave lora.{setting} out, or set it to {there:g}.",
                )

    def put_on(self, parameters: Mapping[str, Parameter]) -> None:
        """Copy the weights into an adapter's parameters. Raises StartingPointError where layers or shapes differ."""
        wanted = {canonical(name): parameter for name, parameter in parameters.items()}
        extra, missing = sorted(set(self.weights) - set(wanted)), sorted(set(wanted) - set(self.weights))
        if extra or missing:
            what = f"adapts {extra[0]}, which this run does not" if extra else f"does not adapt {missing[0]}"
            raise StartingPointError(
                f"{self.name} {what}.",
                f"Set lora.targets to the layers it adapts ({', '.join(self.facts.targets)}), "
                "and check that it is an adapter of this base model.",
            )
        for name, parameter in wanted.items():
            if self.weights[name].shape != parameter.shape:
                raise StartingPointError(
                    f"{self.name}: {name} has the shape {list(self.weights[name].shape)}, not {list(parameter.shape)}.",
                    "Start from an adapter of this base model.",
                )
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(self.weights[name])

    def put_on_head(self, task: Task) -> str | None:
        """Copy the head where the labels are the same; else say in one sentence what happens instead."""
        head = task.head()
        if head is None:
            return None
        if not self.head or self.facts.metadata.labels != tuple(task.labels):
            why = "The labels differ from those of" if self.head else "There is no head in"
            return f"{why} {self.name}, so the head starts anew; the adapter's weights are used."
        try:
            head.load_state_dict(dict(self.head))
        except RuntimeError as error:
            raise StartingPointError(f"{self.name}: its head does not fit: {error}", REMEDY) from error
        return None


def read_start(path: Path) -> StartingPoint:
    """Read an adapter file, an adapter directory (ours or PEFT's) or a checkpoint. Raises StartingPointError."""
    facts = facts_of(path)
    file = path / ADAPTER if path.is_dir() else path
    beside = path / HEAD if path.is_dir() else None
    try:
        tensors = load_file(file)
        head = load_file(beside) if beside is not None and beside.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise StartingPointError(f"{path.name} cannot be read: {error}.", REMEDY) from error
    head |= {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    weights = {canonical(name): tensor.float() for name, tensor in tensors.items() if ".lora_" in name}
    if not all(torch.isfinite(tensor).all() for tensor in (*weights.values(), *head.values())):
        raise StartingPointError(f"{path.name} holds NaN or infinite weights.", "Start from another adapter.")
    hashes = [sha256_of(file)] + ([sha256_of(beside)] if beside is not None and beside.is_file() else [])
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return StartingPoint(path.name, digest, facts, weights, head)
