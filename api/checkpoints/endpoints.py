"""/v1/fine_tuning/checkpoints/{name}/permissions: which other projects may use a checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from api.checkpoints import service
from api.checkpoints.schemas import PermissionOut, PermissionsIn
from api.dependencies import JobsReader, JobsWriter, ServicesDep
from api.routers import make_router
from api.schemas import After, CursorListOut, DeletedOut, PageLimit

router = make_router("/v1/fine_tuning/checkpoints/{checkpoint}/permissions", "fine-tuning")


@router.post("")
def grant_permissions(
    checkpoint: str, body: PermissionsIn, services: ServicesDep, caller: JobsWriter
) -> CursorListOut[PermissionOut]:
    """Let other projects use a checkpoint."""
    return service.grant(services, caller, checkpoint, body)


@router.get("")
def list_permissions(
    checkpoint: str,
    services: ServicesDep,
    caller: JobsReader,
    project_id: Annotated[str | None, Query(max_length=100)] = None,
    after: After = None,
    limit: PageLimit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> CursorListOut[PermissionOut]:
    """List which projects may use a checkpoint."""
    return service.list_page(services, caller, checkpoint, project_id=project_id, after=after, limit=limit, order=order)


@router.delete("/{permission_id}")
def revoke_permission(checkpoint: str, permission_id: str, services: ServicesDep, caller: JobsWriter) -> DeletedOut:
    """Take a permission back."""
    service.revoke(services, caller, checkpoint, permission_id)
    return DeletedOut(id=permission_id, object="checkpoint.permission")
