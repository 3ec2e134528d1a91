"""/v1/organization/projects: create, list, retrieve, change; and /v1/project, the caller's own."""

from __future__ import annotations

from api.dependencies import Administrator, JobsReader, ServicesDep
from api.projects import service
from api.projects.schemas import ProjectChangeIn, ProjectIn, ProjectOut
from api.routers import make_router
from api.schemas import After, CursorListOut, PageLimit

router = make_router("/v1", "projects")


@router.post("/organization/projects")
def create_project(body: ProjectIn, services: ServicesDep, caller: Administrator) -> ProjectOut:
    """Make a project."""
    return service.create(services, caller, body)


@router.get("/organization/projects")
def list_projects(
    services: ServicesDep, caller: Administrator, after: After = None, limit: PageLimit = 20
) -> CursorListOut[ProjectOut]:
    """List projects, oldest first."""
    return service.list_page(services, after=after, limit=limit)


@router.get("/organization/projects/{project_id}")
def retrieve_project(project_id: str, services: ServicesDep, caller: Administrator) -> ProjectOut:
    """Give one project with its quotas and what is used of them."""
    return service.retrieve(services, project_id)


@router.post("/organization/projects/{project_id}")
def update_project(project_id: str, body: ProjectChangeIn, services: ServicesDep, caller: Administrator) -> ProjectOut:
    """Rename a project, set its quotas."""
    return service.update(services, caller, project_id, body)


@router.get("/project")
def retrieve_own_project(services: ServicesDep, caller: JobsReader) -> ProjectOut:
    """Give the project of the key that asks, with its quotas and what is used of them."""
    return service.retrieve(services, caller.project_id)
