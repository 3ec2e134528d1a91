"""When which queued job's doorbell is to ring, so that a worker claims it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from sgg_store.job_state import JobStatus
from sgg_store.records import JobRecord, database_now
from sgg_store.retries import ring_delay


class Doorbells:
    """Those of queued jobs. Every method belongs into a `Database.begin()` transaction of its own."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def due_for_ring(self, limit: int = 100, *, only: ColumnElement[bool] | None = None) -> list[str]:
        """Ids of queued jobs whose doorbell should ring now, first those of higher priority and those that came first.

        `only` narrows them down; see `Turns.may_run`.
        """
        query = select(JobRecord.id).where(
            JobRecord.status == JobStatus.QUEUED, JobRecord.next_ring_at <= database_now()
        )
        if only is not None:
            query = query.where(only)
        order = (JobRecord.priority.desc(), JobRecord.created_at, JobRecord.id)
        return list(self.session.scalars(query.order_by(*order).limit(limit)))

    def mark_rung(self, job_id: str) -> None:
        """Note that a job's due doorbell was rung: the next ring waits twice as long as this one did, up to a minute.

        Does nothing if it is not due (any more): an attempt may have begun and ended since it was rung, and what the
        job was told to wait then is not over.
        """
        due = (JobRecord.status == JobStatus.QUEUED, JobRecord.next_ring_at <= database_now())
        query = select(JobRecord).where(JobRecord.id == job_id, *due).with_for_update()
        job = self.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if job is not None:
            job.rings += 1
            now = self.session.execute(select(database_now())).scalar_one()
            job.next_ring_at = now + ring_delay(job.rings)
            self.session.flush()

    def ring_all_again(self) -> None:
        """Make every queued job's doorbell due now: the broker has forgotten what it was told."""
        self.session.execute(
            update(JobRecord)
            .where(JobRecord.status == JobStatus.QUEUED)
            .values(rings=0, next_ring_at=database_now())
            .execution_options(synchronize_session=False)
        )
