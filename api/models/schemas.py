"""Models in answers: base models of the catalogue, and those that jobs made."""

from __future__ import annotations

from typing import Literal

from api.schemas import Out


class SggModelOut(Out):
    """What this server knows of a model beyond OpenAI's fields. Fields that do not apply are null."""

    type: Literal["base", "fine-tuned", "checkpoint"]
    kind: Literal["causal", "encoder"] | None = None
    license: str | None = None
    description: str | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    base_model: str | None = None
    method: Literal["sgg", "supervised"] | None = None
    job: str | None = None
    result_files: tuple[str, ...] = ()
    """Ids of the metrics and of the adapter's bundle; of a checkpoint's weights and their configuration."""


class ModelOut(Out):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix seconds; 0 for base models, which come with the catalogue."""
    owned_by: str
    sgg: SggModelOut


class ModelListOut(Out):
    """All models, base models first."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
