"""The one way a job's status changes: guarded by the old status, and told by an event in the same statement's wake."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from sgg_store.events import NewEvent
from sgg_store.job_state import TERMINAL, JobStatus, check_transition
from sgg_store.records import JobRecord, database_now
from sgg_store.retries import Failure


def move_job(
    session: Session, job_id: str, source: JobStatus, target: JobStatus, event: NewEvent, **values: Any
) -> JobRecord | None:
    """Move a job from `source` to `target`, set `values`, and write `event` as its next event.

    Gives None, and changes nothing, if the job is not in `source` (any more).
    Raises TransitionError if no job may ever move so.
    """
    check_transition(job_id, source, target)
    if target in TERMINAL:
        values["finished_at"] = database_now()
    job = session.scalars(
        update(JobRecord)
        .where(JobRecord.id == job_id, JobRecord.status == source)
        .values(status=target, last_event_seq=JobRecord.last_event_seq + 1, **values)
        .returning(JobRecord)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one_or_none()
    if job is not None:
        session.add(event.numbered(job, job.last_event_seq))
    return job


def fail_job(session: Session, job_id: str, failure: Failure) -> JobRecord | None:
    """Move a running job to failed and tell why."""
    return move_job(
        session,
        job_id,
        JobStatus.RUNNING,
        JobStatus.FAILED,
        NewEvent(failure.message, level="error", data={"code": failure.code}),
        error_code=failure.code,
        error_message=failure.message,
        error_param=failure.param,
    )


def cancel_job(session: Session, job_id: str, source: JobStatus, last_checkpoint: int | None) -> JobRecord | None:
    """Move a queued or running job to cancelled and tell which checkpoint it leaves behind."""
    kept = "It left no checkpoint." if last_checkpoint is None else f"Its last checkpoint is step {last_checkpoint}."
    event = NewEvent(f"The job was cancelled. {kept}", data={"last_checkpoint_step": last_checkpoint})
    return move_job(session, job_id, source, JobStatus.CANCELLED, event)
