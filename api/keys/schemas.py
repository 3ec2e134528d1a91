"""API keys in requests and answers: never their secrets, but for the one answer that makes a key."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from api.projects.schemas import Name
from api.schemas import Identified, Out

Scope = Literal["jobs:read", "jobs:write", "files:read", "files:write", "models:try", "admin"]
KeyStatus = Literal["active", "expired", "revoked"]
MAX_LIFE_SECONDS = 10 * 365 * 86_400


class KeyIn(BaseModel):
    """A new key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name
    """For people: who uses it, and where."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(get_args(Scope)))]
    """What it may do. `admin` includes all, and the administration of every project."""
    expires_in_seconds: Annotated[int, Field(ge=1, le=MAX_LIFE_SECONDS)] | None = None
    """It does not expire if this is left out."""


class ServiceAccountOut(Out):
    """Whom OpenAI's clients take the key to belong to: here a key is an account of its own."""

    id: str
    name: str
    role: Literal["member", "owner"]
    created_at: int


class KeyOwnerOut(Out):
    """The owner in OpenAI's form."""

    type: Literal["service_account"] = "service_account"
    service_account: ServiceAccountOut


class SggKeyOut(Out):
    """What OpenAI's keys do not have."""

    scopes: tuple[str, ...]
    status: KeyStatus
    revoked_at: int | None


class KeyOut(Identified):
    """An API key of a project."""

    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    name: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    """To the minute."""
    redacted_value: str
    owner: KeyOwnerOut
    owner_project_access: Literal["active", "inactive"]
    sgg: SggKeyOut


class NewKeyOut(KeyOut):
    """A key that was just made."""

    value: str
    """The key itself. It is shown this one time and kept nowhere."""
