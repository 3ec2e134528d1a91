"""Events: a job's diary, numbered without gaps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store import ids
from sgg_store.records.base import Record, database_now


class EventRecord(Record):
    """One event. `seq` counts from 1 within its job; the one of the final status is the last."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float] = mapped_column(default=database_now())
    level: Mapped[str]  # info, warn, error
    type: Mapped[str]  # message, metrics
    message: Mapped[str]
    data: Mapped[dict[str, Any]]

    @property
    def id(self) -> str:
        """The event's public id, `ftevent-...`."""
        return ids.event_id(self.job_id, self.seq)
