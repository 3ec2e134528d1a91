"""Permissions of checkpoints in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Identified

ProjectId = Annotated[str, Field(min_length=1, max_length=100)]


class PermissionsIn(BaseModel):
    """A request to let projects use a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_ids: Annotated[tuple[ProjectId, ...], Field(min_length=1, max_length=100)]


class PermissionOut(Identified):
    """A project's leave to use a checkpoint."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str
