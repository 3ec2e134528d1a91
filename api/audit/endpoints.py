"""/v1/organization/audit_logs: who changed what, and who was refused."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from api.audit import service
from api.audit.schemas import AuditOut
from api.dependencies import Administrator, ServicesDep
from api.routers import make_router
from api.schemas import After, CursorListOut
from sgg_store.audit import AuditFilter

router = make_router("/v1/organization/audit_logs", "audit log")
Text = Annotated[str, Query(max_length=200)]
Seconds = Annotated[float | None, Query(ge=0, le=2**40, description="Unix seconds.")]


def _names(alias: str, what: str) -> object:
    return Query(alias=f"{alias}[]", max_length=50, description=f"Only entries of {what}.")


@router.get("")
def list_audit_logs(
    services: ServicesDep,
    caller: Administrator,
    project_ids: Annotated[tuple[Text, ...], _names("project_ids", "these projects' keys")] = (),
    actor_ids: Annotated[tuple[Text, ...], _names("actor_ids", "these keys")] = (),
    event_types: Annotated[tuple[Text, ...], _names("event_types", "these types, as in job.created")] = (),
    resource_ids: Annotated[tuple[Text, ...], _names("resource_ids", "these targets")] = (),
    outcomes: Annotated[
        tuple[Literal["succeeded", "refused", "failed"], ...], _names("outcomes", "these outcomes")
    ] = (),
    later_than: Annotated[Seconds, Query(alias="effective_at[gt]")] = None,
    since: Annotated[Seconds, Query(alias="effective_at[gte]")] = None,
    until: Annotated[Seconds, Query(alias="effective_at[lt]")] = None,
    up_to: Annotated[Seconds, Query(alias="effective_at[lte]")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> CursorListOut[AuditOut]:
    """List entries of all projects, newest first."""
    wanted = AuditFilter(
        project_ids=project_ids,
        key_ids=actor_ids,
        actions=event_types,
        targets=resource_ids,
        outcomes=outcomes,
        since=service.latest(since, service.next_second(later_than)),
        until=service.earliest(until, service.next_second(up_to)),
    )
    return service.list_page(services, wanted, after=after, limit=limit)
