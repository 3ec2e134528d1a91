"""The audit log in answers."""

from __future__ import annotations

from typing import Any, Literal

from api.schemas import Identified, Out


class AuditProjectOut(Out):
    """The project of the key that was used."""

    id: str


class AuditKeyOut(Out):
    """The key that was used."""

    id: str
    type: Literal["service_account"] = "service_account"


class AuditActorOut(Out):
    """Who called."""

    type: Literal["api_key"] = "api_key"
    api_key: AuditKeyOut


class SggAuditOut(Out):
    """What OpenAI's entries do not have."""

    outcome: Literal["succeeded", "refused", "failed"]
    status: int
    """Of the answer."""
    target: str | None
    """Id of what was changed, or was to be."""
    request_id: str
    client_address: str | None
    details: dict[str, Any]
    """What was set."""
    repeats: int
    """How many refusals before this one were left out of the log."""


class AuditOut(Identified):
    """One call that changed something, or was refused."""

    type: str
    """What was done, as in `job.created`."""
    effective_at: int
    project: AuditProjectOut | None
    """Null if no valid key came with the call."""
    actor: AuditActorOut | None
    """Null if no valid key came with the call."""
    sgg: SggAuditOut
