"""Attempts: one worker's try at a job, and its lease."""

from __future__ import annotations

from sqlalchemy import ColumnElement, ForeignKey, Index, case, func, text
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.job_state import AttemptState
from sgg_store.records.base import Record, database_now
from sgg_store.retries import Cause


class AttemptRecord(Record):
    """One try. While it runs, its token and the time its lease ends decide who may write about the job."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index(
            "uq_attempts_one_running_per_job",
            "job_id",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        Index(None, "state", "lease_expires_at"),
        Index(None, "ended_at"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # counts from 1
    token: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[str]  # which worker, for people and for a restarted worker that knows itself
    state: Mapped[AttemptState] = mapped_column(default=AttemptState.RUNNING)
    cause: Mapped[Cause | None]
    detail: Mapped[str | None]  # one line on how it ended: exit code, signal, error
    lease_expires_at: Mapped[float]
    start_step: Mapped[int] = mapped_column(default=0)  # the checkpoint it resumed from; 0 is the beginning
    last_step: Mapped[int] = mapped_column(default=0)
    told_events: Mapped[int] = mapped_column(default=0, server_default="0")  # by its worker
    started_at: Mapped[float] = mapped_column(default=database_now())
    ended_at: Mapped[float | None]

    @classmethod
    def until(cls, now: float) -> ColumnElement[float]:
        """When it ended, or `now`: but for one that was lost no later than its lease, whenever that was found."""
        ended = func.coalesce(cls.ended_at, now)
        return case((ended > cls.lease_expires_at, cls.lease_expires_at), else_=ended)
