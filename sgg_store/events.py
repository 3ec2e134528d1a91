"""A job's events: appended by its worker, read by anyone who may see the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from sgg_store.attempts import Lease, guard
from sgg_store.pages import Page, read_page
from sgg_store.records import EventRecord, JobRecord


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no number yet."""

    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] = field(default_factory=dict)

    def values(self, job: JobRecord, seq: int) -> dict[str, Any]:
        """The columns of the row that says this as the job's event number `seq`."""
        return {
            "job_id": job.id,
            "project_id": job.project_id,
            "seq": seq,
            "level": self.level,
            "type": self.type,
            "message": self.message,
            "data": self.data,
        }

    def numbered(self, job: JobRecord, seq: int) -> EventRecord:
        """The row that says this as the job's event number `seq`."""
        return EventRecord(**self.values(job, seq))


class Events:
    """The events of jobs. `seq` counts 1, 2, 3, ... within a job; nothing follows the event of its final status."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def append(self, lease: Lease, events: Sequence[NewEvent], told: int | None = None) -> None:
        """Add events in this order. Raises LeaseLostError.

        `told` is how many the attempt's worker knows to be added before. Who did not hear whether these were, too, may
        say all of it again.
        """
        attempt = guard(self.session, lease)
        events = events[0 if told is None else attempt.told_events - told :]
        if not events:
            return
        attempt.told_events += len(events)
        self.add(lease.job_id, events)

    def add(self, job_id: str, events: Sequence[NewEvent]) -> None:
        """Add events in this order that no worker counts as its own; for transactions that hold the job's lease."""
        job = self.session.scalars(
            update(JobRecord)
            .where(JobRecord.id == job_id)
            .values(last_event_seq=JobRecord.last_event_seq + len(events))
            .returning(JobRecord)
            .execution_options(populate_existing=True, synchronize_session=False)
        ).one()
        first = job.last_event_seq - len(events) + 1
        self.session.add_all(event.numbered(job, first + index) for index, event in enumerate(events))

    def list_page(
        self, project_id: str, job_id: str, *, after: str | None = None, limit: int = 20
    ) -> Page[EventRecord]:
        """The job's events, newest first, going on after the event with the id `after`.

        A job of another project has no events. Raises CursorNotFoundError.
        """
        query = self._of(project_id, job_id)
        seq = None if after is None else seq_of(job_id, after)
        return read_page(
            self.session, "event", query, (EventRecord.seq,), after=seq, cursor=after, limit=limit, order="desc"
        )

    def since(self, project_id: str, job_id: str, seq: int, *, limit: int = 1000) -> list[EventRecord]:
        """Up to `limit` events after number `seq`, oldest first: what a follower has not seen yet."""
        query = self._of(project_id, job_id).where(EventRecord.seq > seq)
        return list(self.session.scalars(query.order_by(EventRecord.seq).limit(limit)))

    @staticmethod
    def _of(project_id: str, job_id: str) -> Select[EventRecord]:
        return select(EventRecord).where(EventRecord.job_id == job_id, EventRecord.project_id == project_id)


def seq_of(job_id: str, event_id: str) -> int:
    """The number of the job's event with this id; 0 if it is the id of none."""
    prefix = f"ftevent-{job_id.removeprefix('ftjob-')}"
    digits = event_id.removeprefix(prefix)
    return int(digits) if event_id.startswith(prefix) and digits.isascii() and digits.isdigit() else 0
