"""sgg.json: what an adapter directory says of itself, and whether its files are still those that it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from sgg_core.adapter_file import ADAPTER, CONFIG, HEAD, MANIFEST
from sgg_core.errors import CheckpointError
from sgg_core.files import sha256_of
from sgg_core.shapes import Kind
from sgg_core.spec import TrainingSpec

if TYPE_CHECKING:
    from sgg_core.tasks.task import Task


class DataHash(BaseModel):
    """One data file of the run."""

    role: str
    filename: str
    sha256: str
    examples: int


class StartedFrom(BaseModel):
    """The adapter whose weights a run began with."""

    name: str
    sha256: str


class Manifest(BaseModel):
    """Content of sgg.json: all that is needed to use the adapter again, and to know where it comes from."""

    format: int = 1
    kind: Kind
    labels: list[str]
    prompt: str | None
    template_sha256: str | None = None  # of what is written around texts: the prompt, or the chat template
    spec: TrainingSpec
    base_model_sha256: str
    data: list[DataHash]
    started_from: StartedFrom | None = None
    versions: dict[str, str]
    files: dict[str, str]


def template_fingerprint(task: Task) -> str:
    """sha256 of what a task writes around texts: its prompt, else the chat template, or else the opening."""
    from sgg_core.encoding import opening  # with torch, which is not needed to look at a directory

    tokenizer = task.base.tokenizer
    return hashlib.sha256((task.template() or tokenizer.chat_template or opening(tokenizer)).encode()).hexdigest()


def verify_directory(directory: Path) -> Manifest:
    """Check every file's sha256 against the manifest. Raises CheckpointError naming all files that differ."""
    return _verified(directory, lambda name: True)


def verify_weights(directory: Path) -> Manifest:
    """Check only the files that answers depend on: people write into the card and throw plots away.

    Raises CheckpointError naming all of these files that differ.
    """
    return _verified(directory, (ADAPTER, CONFIG, HEAD).__contains__)


def _verified(directory: Path, matters: Callable[[str], bool]) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except ValueError as error:
        raise CheckpointError(
            f"{directory} is not an adapter directory: its {MANIFEST} is damaged.", "Download or train it again."
        ) from error
    except OSError as error:
        reason = f"{directory} is not an adapter directory: its {MANIFEST} cannot be read ({error.strerror or error})."
        remedy = "Give the directory that a training wrote, or that a job's adapter was downloaded to."
        if any(directory.glob("*.safetensors")):
            remedy = (
                "It may be a checkpoint: `sgg train` can resume or start from one (`--checkpoints`, `--from`), and a "
                f"server answers with one by its name. {remedy}"
            )
        raise CheckpointError(reason, remedy) from error
    bad = []
    for name in filter(matters, manifest.files):
        path, digest = directory / name, manifest.files[name]
        if not path.is_file():
            bad.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            bad.append(f"{name} was changed")
    if bad:
        raise CheckpointError(f"{directory} is damaged: {'; '.join(bad)}.", "Download or train it again.")
    return manifest
