"""Projects: the owner of everything a caller may see."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class ProjectRecord(Record):
    """One tenant. Files, jobs and keys belong to exactly one."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=database_now())
