"""What webhooks are told of jobs: rows written in the transaction of what they tell of, so that none is ever lost."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.records import JobRecord, WebhookDeliveryRecord, WebhookEndpointRecord

CHECKPOINT = "fine_tuning.job.checkpoint"
STARTED = "fine_tuning.job.started"
OF_STATUS = {
    "running": STARTED,
    "paused": "fine_tuning.job.paused",
    "succeeded": "fine_tuning.job.succeeded",
    "failed": "fine_tuning.job.failed",
    "cancelled": "fine_tuning.job.cancelled",
}
EVENT_TYPES = (*OF_STATUS.values(), CHECKPOINT)


def announce_status(session: Session, job: JobRecord) -> None:
    """Tell of a job's new status. A job starts once, however many attempts it takes."""
    type_ = OF_STATUS.get(job.status)
    if type_ is not None and not (type_ == STARTED and job.current_attempt > 1):
        _announce(session, type_, job.project_id, job.id, {})


def announce_checkpoint(session: Session, project_id: str, job_id: str, checkpoint_id: str, step: int) -> None:
    """Tell of a recorded checkpoint."""
    _announce(session, CHECKPOINT, project_id, job_id, {"checkpoint_id": checkpoint_id, "step_number": step})


def _announce(session: Session, type_: str, project_id: str, job_id: str, more: dict[str, Any]) -> None:
    endpoints = session.execute(
        select(WebhookEndpointRecord.id, WebhookEndpointRecord.events)
        .where(WebhookEndpointRecord.project_id == project_id, WebhookEndpointRecord.enabled.is_(True))
        .with_for_update(read=True, key_share=True)  # one that is being deleted is not told, instead of failing the job
    )
    event_id = ids.new_id("evt_")
    session.add_all(
        WebhookDeliveryRecord(
            id=ids.new_id("whdel_"),
            endpoint_id=endpoint_id,
            event_id=event_id,
            job_id=job_id,
            type=type_,
            data={"id": job_id} | ({"sgg": more} if more else {}),
        )
        for endpoint_id, events in endpoints
        if type_ in events
    )
