"""What happens to projects."""

from __future__ import annotations

from typing import get_args

from sqlalchemy.orm import Session

from api.auth import Caller
from api.dependencies import Services
from api.projects.schemas import ProjectChangeIn, ProjectIn, ProjectOut, QuotaOut, QuotasOut, SggProjectOut
from api.schemas import CursorListOut
from sgg_store.projects import Projects
from sgg_store.quota_limits import Quota, QuotaLimits
from sgg_store.quotas import QuotaChange, Quotas, limits_of
from sgg_store.records import ProjectRecord


def create(services: Services, caller: Caller, project_in: ProjectIn) -> ProjectOut:
    """Add a project."""
    quotas = _quotas(project_in)
    with services.database.begin() as session:
        project = Projects(session).create(project_in.name, quotas)
        caller.trail.write(session, project.id, name=project.name, quotas=quotas)
        return _out(session, project, services.settings.quotas)


def list_page(services: Services, *, after: str | None, limit: int) -> CursorListOut[ProjectOut]:
    """Give one page of all projects, oldest first."""
    with services.database.read() as session:
        page = Projects(session).list_page(after=after, limit=limit)
        data = [_out(session, project, services.settings.quotas) for project in page.items]
    return CursorListOut[ProjectOut](data=data, has_more=page.has_more)


def retrieve(services: Services, project_id: str) -> ProjectOut:
    """Give a project. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return _out(session, Projects(session).get(project_id), services.settings.quotas)


def update(services: Services, caller: Caller, project_id: str, change: ProjectChangeIn) -> ProjectOut:
    """Rename a project, set its quotas. Raises RecordNotFoundError."""
    quotas = _quotas(change)
    with services.database.begin() as session:
        project = Projects(session).change(project_id, name=change.name, quotas=quotas)
        caller.trail.write(session, project.id, name=change.name, quotas=quotas)
        return _out(session, project, services.settings.quotas)


def _quotas(change: ProjectChangeIn) -> QuotaChange:
    given = change.sgg.quotas.model_dump(exclude_unset=True)
    return {quota: given[quota] for quota in get_args(Quota) if quota in given}


def _out(session: Session, project: ProjectRecord, defaults: QuotaLimits) -> ProjectOut:
    own, limits, quotas = limits_of(project, QuotaLimits()), limits_of(project, defaults), Quotas(session, defaults)
    return ProjectOut(
        id=project.id,
        name=project.name,
        created_at=int(project.created_at),
        sgg=SggProjectOut(
            quotas=QuotasOut(
                **{
                    quota: QuotaOut(
                        limit=getattr(limits, quota),
                        used=quotas.used(project.id, quota),
                        source="server" if getattr(own, quota) is None else "project",
                    )
                    for quota in get_args(Quota)
                }
            )
        ),
    )
