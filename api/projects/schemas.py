"""Projects in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Identified, Out

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Limit = Annotated[int, Field(ge=0, le=2**53)] | None
SmallLimit = Annotated[int, Field(ge=0, le=2**31 - 1)] | None


class QuotasIn(BaseModel):
    """The quotas to set. One that is left out stays as it is; null takes the server's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    running_jobs: SmallLimit = None
    """How many jobs may run at once."""
    queued_jobs: SmallLimit = None
    """How many jobs may wait at once, paused ones among them."""
    stored_bytes: Limit = None
    """How many bytes of files may be kept, uploads and results."""
    trainer_seconds_per_day: SmallLimit = None
    """How many seconds of training may be used in a day that begins at midnight UTC."""


class SggProjectIn(BaseModel):
    """What OpenAI's projects do not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    quotas: QuotasIn = QuotasIn()


class ProjectChangeIn(BaseModel):
    """What to change about a project."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name | None = None
    """Left as it is if this is null or left out."""
    sgg: SggProjectIn = SggProjectIn()


class ProjectIn(ProjectChangeIn):
    """A new project."""

    name: Name


class QuotaOut(Out):
    """One quota."""

    limit: int | None
    """Null is no limit."""
    used: int
    source: Literal["project", "server"]
    """Who set the limit: it is the project's own, or the server's default."""


class QuotasOut(Out):
    """The project's quotas and what is used of them."""

    running_jobs: QuotaOut
    queued_jobs: QuotaOut
    stored_bytes: QuotaOut
    trainer_seconds_per_day: QuotaOut


class SggProjectOut(Out):
    """What OpenAI's projects do not have."""

    quotas: QuotasOut


class ProjectOut(Identified):
    """A project: what it owns can be seen with its own keys only."""

    object: Literal["organization.project"] = "organization.project"
    name: str
    created_at: int
    archived_at: int | None = None
    status: Literal["active"] = "active"
    sgg: SggProjectOut
