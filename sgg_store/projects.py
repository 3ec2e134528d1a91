"""Projects: made, read and changed by administrators."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.errors import RecordNotFoundError
from sgg_store.pages import Page, read_page
from sgg_store.quotas import QuotaChange
from sgg_store.records import ProjectRecord


class Projects:
    """All projects of the service. What belongs to one is reached through its own repositories."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def create(self, name: str, quotas: QuotaChange | None = None) -> ProjectRecord:
        """Add a project. Quotas that are not given are the server's defaults."""
        project = ProjectRecord(id=ids.new_id("proj-"), name=name)
        self.session.add(project)
        return self._changed(project, quotas)

    def get(self, project_id: str) -> ProjectRecord:
        """The project. Raises RecordNotFoundError."""
        project = self.session.get(ProjectRecord, project_id)
        if project is None:
            raise RecordNotFoundError("project", project_id)
        return project

    def list_page(self, *, after: str | None = None, limit: int = 20) -> Page[ProjectRecord]:
        """Projects, oldest first. Raises CursorNotFoundError."""
        return read_page(
            self.session,
            "project",
            select(ProjectRecord),
            (ProjectRecord.created_at, ProjectRecord.id),
            after=after,
            limit=limit,
            order="asc",
        )

    def change(self, project_id: str, *, name: str | None = None, quotas: QuotaChange | None = None) -> ProjectRecord:
        """Rename a project and set quotas; what is not given stays. Raises RecordNotFoundError."""
        project = self.get(project_id)
        if name is not None:
            project.name = name
        return self._changed(project, quotas)

    def _changed(self, project: ProjectRecord, quotas: QuotaChange | None) -> ProjectRecord:
        for quota, limit in (quotas or {}).items():
            setattr(project, f"max_{quota}", limit)
        self.session.flush()
        return project


def take_turns(session: Session, project_id: str) -> None:
    """Let calls that add to what a project may have take turns until they commit.

    Rows that refer to the project are not kept from being added: a lock against foreign keys, too, would wait for every
    job that is being created, and two of these would wait for it.
    """
    session.execute(select(ProjectRecord.id).where(ProjectRecord.id == project_id).with_for_update(key_share=True))
