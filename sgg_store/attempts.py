"""The lease of an attempt, and the compare-and-set that every write under it begins with."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from sgg_store.errors import LeaseLostError
from sgg_store.instruments import FENCED_WRITES
from sgg_store.job_state import AttemptState
from sgg_store.records import AttemptRecord, database_now


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job and to write about it, proved by a random token. `attempt` counts from 1."""

    job_id: str
    project_id: str
    attempt: int
    token: str
    owner: str


def holds(lease: Lease) -> ColumnElement[bool]:
    """The condition under which `lease` still owns its job: same token, running, and not run out."""
    return and_(
        AttemptRecord.job_id == lease.job_id,
        AttemptRecord.number == lease.attempt,
        AttemptRecord.token == lease.token,
        AttemptRecord.state == AttemptState.RUNNING,
        AttemptRecord.lease_expires_at > database_now(),
    )


def guard(session: Session, lease: Lease) -> AttemptRecord:
    """Make sure that `lease` owns its job until this transaction ends, and give the attempt's row.

    Postgres locks the row, SQLite's writers are alone anyway: neither the reaper nor another worker can come between.
    Raises LeaseLostError; then nothing of this transaction may be committed.
    """
    attempt = session.scalars(
        select(AttemptRecord).where(holds(lease)).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if attempt is None:
        FENCED_WRITES.inc()
        raise LeaseLostError(lease.job_id, lease.attempt)
    return attempt
