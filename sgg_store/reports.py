"""Reports on what jobs made: they lie in the object store beside the results, and go with their job."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.attempts import Lease
from sgg_store.job_state import AttemptState
from sgg_store.objects import report_key
from sgg_store.records import AttemptRecord, JobRecord


def key_of_report(session: Session, job: JobRecord, name: str) -> str | None:
    """Key of a part of a job's report; None unless the job has succeeded. What an older version made has no object."""
    query = select(AttemptRecord).where(AttemptRecord.job_id == job.id, AttemptRecord.state == AttemptState.SUCCEEDED)
    attempt = session.scalars(query).one_or_none()
    if attempt is None:
        return None
    return report_key(Lease(job.id, job.project_id, attempt.number, attempt.token, attempt.owner), name)
