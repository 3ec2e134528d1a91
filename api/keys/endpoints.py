"""/v1/organization/projects/{id}/api_keys: create, list, retrieve, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.dependencies import Administrator, ServicesDep
from api.keys import service
from api.keys.schemas import KeyIn, KeyOut, NewKeyOut
from api.routers import make_router
from api.schemas import After, CursorListOut, DeletedOut, PageLimit

router = make_router("/v1/organization/projects/{project_id}/api_keys", "API keys")
Revoked = Annotated[bool, Query(description="Also list keys that were revoked.")]


@router.post("")
def create_api_key(project_id: str, body: KeyIn, services: ServicesDep, caller: Administrator) -> NewKeyOut:
    """Make a key. The answer shows it this one time."""
    return service.create(services, caller, project_id, body)


@router.get("")
def list_api_keys(
    project_id: str,
    services: ServicesDep,
    caller: Administrator,
    after: After = None,
    limit: PageLimit = 20,
    include_revoked: Revoked = False,
) -> CursorListOut[KeyOut]:
    """List a project's keys, oldest first."""
    return service.list_page(services, project_id, after=after, limit=limit, revoked=include_revoked)


@router.get("/{key_id}")
def retrieve_api_key(project_id: str, key_id: str, services: ServicesDep, caller: Administrator) -> KeyOut:
    """Give one key."""
    return service.retrieve(services, project_id, key_id)


@router.delete("/{key_id}")
def delete_api_key(project_id: str, key_id: str, services: ServicesDep, caller: Administrator) -> DeletedOut:
    """Revoke a key. Requests that come with it from now on are refused."""
    service.revoke(services, caller, project_id, key_id)
    return DeletedOut(id=key_id, object="organization.project.api_key.deleted")
