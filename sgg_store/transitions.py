"""The one way a job's status changes: guarded by the old status, and told by an event in the same statement's wake."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from sgg_store.announcements import announce_status
from sgg_store.checkpoints import Checkpoints
from sgg_store.events import NewEvent
from sgg_store.job_state import TERMINAL, JobStatus, check_transition
from sgg_store.records import JobRecord, database_now
from sgg_store.retries import Failure


def move_job(
    session: Session, job_id: str, source: JobStatus, target: JobStatus, event: NewEvent, **values: Any
) -> JobRecord | None:
    """Move a job from `source` to `target`, set `values`, and write `event` as its next event; tell webhooks.

    Gives None, and changes nothing, if the job is not in `source` (any more).
    Raises TransitionError if no job may ever move so.
    """
    check_transition(job_id, source, target)
    if target is not JobStatus.RUNNING:
        values["pause_requested"] = False  # it was asked of the attempt that has ended
    if target is JobStatus.QUEUED:
        values["queued_at"] = database_now()
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
        announce_status(session, job)
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


def cancel_job(session: Session, job: JobRecord) -> JobRecord | None:
    """Move a job that is not finished to cancelled and tell which checkpoint it leaves behind."""
    name, facts = _last_checkpoint(session, job)
    kept = f"Its last checkpoint is {name}." if name else "It left no checkpoint."
    return move_job(
        session, job.id, job.status, JobStatus.CANCELLED, NewEvent(f"The job was cancelled. {kept}", data=facts)
    )


def pause_job(session: Session, job: JobRecord) -> JobRecord | None:
    """Move a queued or running job to paused and tell from which checkpoint it will go on."""
    name, facts = _last_checkpoint(session, job)
    place = f"from {name}, exactly as it was" if name else "from the beginning"
    event = NewEvent(f"The job is paused. Resume it, and it goes on {place}.", data=facts)
    return move_job(session, job.id, job.status, JobStatus.PAUSED, event)


def requeue_job(session: Session, job: JobRecord, event: NewEvent, delay_seconds: float) -> None:
    """Move a running or paused job back to the queue; its doorbell is due after `delay_seconds`."""
    ring_at = database_now() + delay_seconds
    move_job(session, job.id, job.status, JobStatus.QUEUED, event, rings=0, next_ring_at=ring_at)


def _last_checkpoint(session: Session, job: JobRecord) -> tuple[str | None, dict[str, Any]]:
    checkpoint = Checkpoints(session).newest(job.id)
    name = None if checkpoint is None else job.checkpoint_name(checkpoint.step)
    step = None if checkpoint is None else checkpoint.step
    return name, {"last_checkpoint_step": step, "last_checkpoint": name}
