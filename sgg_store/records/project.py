"""Projects: the owner of everything a caller may see."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class ProjectRecord(Record):
    """One tenant. Files, jobs and keys belong to exactly one. A quota that is null is the server's default."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=database_now())
    max_running_jobs: Mapped[int | None]
    max_queued_jobs: Mapped[int | None]
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_trainer_seconds_per_day: Mapped[int | None]
    deleted_day: Mapped[int] = mapped_column(default=0, server_default="0")  # since 1970
    deleted_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")  # of that day, by jobs now deleted
    last_claimed_at: Mapped[float | None]  # when a worker last took one of its jobs: projects take turns by it
