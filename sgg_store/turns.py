"""Whose turn it is: which queued job a worker takes, so that projects share the workers and none waits for ever.

The rule, in this order:

1. a job of a project that has used up its running jobs or its day's training waits;
2. a higher priority goes first;
3. among equals, the project with fewer running jobs goes first;
4. then the project whose last job was taken longer ago;
5. within a project, the job that was submitted first.

So a project that waits is served after at most one job of each other project of its priority, however many jobs the
others have queued, and one that has the workers to itself may use them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, text, update
from sqlalchemy.orm import Session

from sgg_core.reporting import MemoryNeed
from sgg_store.job_state import JobStatus
from sgg_store.needs import expected_need
from sgg_store.quota_limits import QuotaLimits
from sgg_store.quotas import Quotas, limits_of
from sgg_store.records import AttemptRecord, JobRecord, ProjectRecord, database_now
from sgg_store.retries import Cause

_LOCK = 7_305_776_122  # any number that other users of the same Postgres database do not use
_PATIENCE = "5s"
_CRASHED = exists().where(AttemptRecord.job_id == JobRecord.id, AttemptRecord.cause == Cause.CRASHED).label("crashed")


@dataclass(frozen=True, slots=True)
class Applicant:
    """A job whose turn it is, and what tells with which others it can be trained."""

    job_id: str
    base_model: str
    spec: dict[str, Any]
    crashed: bool  # an attempt of it ended with its trainer's death
    need: MemoryNeed | None = None  # of memory; None where nothing is known of it


class Turns:
    """Chooses the next job. `defaults` are the server's quotas."""

    def __init__(self, session: Session, defaults: QuotaLimits) -> None:
        self.session = session
        self.defaults = defaults

    def take(self, suits: Callable[[Applicant], bool]) -> Applicant | None:
        """Choose the job whose turn it is, whichever a doorbell named.

        One that is told to wait after a failed attempt has no turn before its own doorbell is due. None if no job may
        run now, or if the one whose turn it is does not suit: no other one overtakes it, so that it gets its turn.
        Claim the job in the same transaction: until it ends, nobody else can choose.
        """
        self._wait_for_others()
        running = self._running().subquery()
        not_backing_off = or_(
            JobRecord.current_attempt == 0, JobRecord.rings > 0, JobRecord.next_ring_at <= database_now()
        )
        query = (
            select(JobRecord.id, JobRecord.project_id, JobRecord.base_model, JobRecord.spec, _CRASHED)
            .join(ProjectRecord, ProjectRecord.id == JobRecord.project_id)
            .outerjoin(running, running.c.project_id == JobRecord.project_id)
            .where(JobRecord.status == JobStatus.QUEUED, not_backing_off, self.may_run())
            .order_by(
                JobRecord.priority.desc(),
                func.coalesce(running.c.jobs, 0),
                func.coalesce(ProjectRecord.last_claimed_at, 0.0),
                JobRecord.created_at,
                JobRecord.id,
            )
        )
        chosen = self.session.execute(query.limit(1)).one_or_none()
        if chosen is None:
            return None
        need = expected_need(self.session, chosen.id, chosen.base_model, chosen.spec)
        applicant = Applicant(chosen.id, chosen.base_model, chosen.spec, chosen.crashed, need)
        if not suits(applicant):
            return None
        self.session.execute(
            update(ProjectRecord)
            .where(ProjectRecord.id == chosen.project_id)
            .values(last_claimed_at=database_now())
            .execution_options(synchronize_session=False)
        )
        return applicant

    def may_run(self) -> ColumnElement[bool]:
        """The condition on queued jobs that their projects have room for."""
        waiting = select(JobRecord.project_id).where(JobRecord.status == JobStatus.QUEUED).distinct()
        projects = self.session.scalars(select(ProjectRecord).where(ProjectRecord.id.in_(waiting))).all()
        running = dict(self.session.execute(self._running()).all())
        full = [project.id for project in projects if self._is_full(project, running.get(project.id, 0))]
        return JobRecord.project_id.not_in(full)

    def _is_full(self, project: ProjectRecord, running: int) -> bool:
        limits = limits_of(project, self.defaults)
        if limits.running_jobs is not None and running >= limits.running_jobs:
            return True
        seconds = limits.trainer_seconds_per_day
        if seconds is None:
            return False
        return Quotas(self.session, self.defaults).used(project.id, "trainer_seconds_per_day") >= seconds

    @staticmethod
    def _running() -> Select[str, int]:
        counted = select(JobRecord.project_id, func.count().label("jobs"))
        return counted.where(JobRecord.status == JobStatus.RUNNING).group_by(JobRecord.project_id)

    def _wait_for_others(self) -> None:
        """Let one worker choose at a time: the quotas hold exactly, and no two take the same job.

        SQLite's writers are alone anyway. A worker that stops in between is cut off by the database, so that it does
        not keep the others from choosing.
        """
        if self.session.get_bind().dialect.name != "postgresql":
            return
        for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
            self.session.execute(text(f"SET LOCAL {setting} = '{_PATIENCE}'"))
        self.session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
