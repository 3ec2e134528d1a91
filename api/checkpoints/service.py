"""Letting other projects use a checkpoint: see its model, and download its files."""

from __future__ import annotations

from typing import Literal

from api.auth import Caller
from api.checkpoints.schemas import PermissionOut, PermissionsIn
from api.dependencies import Services
from api.schemas import CursorListOut
from sgg_store.permissions import CheckpointPermissions
from sgg_store.records import CheckpointPermissionRecord


def grant(services: Services, caller: Caller, name: str, wanted: PermissionsIn) -> CursorListOut[PermissionOut]:
    """Let projects use a checkpoint of the caller's. Raises RecordNotFoundError, also for an unknown project."""
    with services.database.begin() as session:
        permissions = CheckpointPermissions(session)
        _, checkpoint = permissions.owned(caller.project_id, name)
        granted = permissions.grant(checkpoint, wanted.project_ids)
        caller.trail.write(session, name, projects=list(wanted.project_ids))
    return CursorListOut[PermissionOut](data=[_out(permission) for permission in granted], has_more=False)


def list_page(
    services: Services,
    caller: Caller,
    name: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    order: Literal["ascending", "descending"],
) -> CursorListOut[PermissionOut]:
    """Give one page of a checkpoint's permissions. Raises RecordNotFoundError."""
    with services.database.read() as session:
        permissions = CheckpointPermissions(session)
        _, checkpoint = permissions.owned(caller.project_id, name)
        page = permissions.list_page(
            checkpoint,
            project_id=project_id,
            after=after,
            limit=limit,
            order="asc" if order == "ascending" else "desc",
        )
    return CursorListOut[PermissionOut](data=[_out(permission) for permission in page.items], has_more=page.has_more)


def revoke(services: Services, caller: Caller, name: str, permission_id: str) -> None:
    """Take a permission back. Raises RecordNotFoundError."""
    with services.database.begin() as session:
        permissions = CheckpointPermissions(session)
        _, checkpoint = permissions.owned(caller.project_id, name)
        permissions.revoke(checkpoint, permission_id)
        caller.trail.write(session, name, permission=permission_id)


def _out(permission: CheckpointPermissionRecord) -> PermissionOut:
    return PermissionOut(id=permission.id, created_at=int(permission.created_at), project_id=permission.project_id)
