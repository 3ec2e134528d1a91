"""Previews in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.files.schemas import ProblemOut
from api.jobs.schemas import FileId, Method
from api.schemas import Out


class PreviewIn(BaseModel):
    """Which file, for which base model; the method's settings are as in a request for a job."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    training_file: FileId
    method: Method | None = None
    limit: Annotated[int, Field(ge=1, le=50)] = 10
    """How many of the first examples to show."""


class SegmentOut(Out):
    """A piece of what the base model is shown. Special tokens are written by their names."""

    text: str
    trained: bool
    """Whether the loss is over its tokens."""


class PreviewedOut(Out):
    """One example."""

    line: int
    segments: list[SegmentOut]
    label: str | None
    """Null unless it is to be classified."""
    tokens: int
    trained_tokens: int
    truncated: bool
    """Whether its text is cut at its end."""
    problem: ProblemOut | None
    """Why a training would refuse it."""


class PreviewOut(Out):
    """The first examples of a file as a training shows them to the base model."""

    object: Literal["fine_tuning.preview"] = "fine_tuning.preview"
    trained: str
    """In words: what the loss is over."""
    data: list[PreviewedOut]
