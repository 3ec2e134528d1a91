"""Quotas of projects: what each may have at once, and the trainer's seconds it may use in a day."""

from __future__ import annotations

import functools

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, case, func, select, update
from sqlalchemy.orm import Session

from sgg_store.errors import QuotaExceededError, RecordNotFoundError
from sgg_store.job_state import ACTIVE, JobStatus
from sgg_store.quota_limits import Quota, QuotaLimits
from sgg_store.records import (
    AttemptRecord,
    FileRecord,
    JobRecord,
    ProjectRecord,
    UploadPartRecord,
    UploadRecord,
    database_now,
)

QuotaChange = dict[Quota, int | None]
WAITING = tuple(sorted(ACTIVE - {JobStatus.RUNNING}))
"""The statuses of jobs that count as queued: those that a worker has yet to take, now or later."""
DAY_SECONDS = 86_400


class Quotas:
    """What projects use, and whether that leaves room. `defaults` are the server's limits."""

    def __init__(self, session: Session, defaults: QuotaLimits) -> None:
        self.session = session
        self.defaults = defaults

    def used(self, project_id: str, quota: Quota) -> int:
        """How much of a quota is used up: jobs, bytes, or full seconds since midnight UTC."""
        return {
            "running_jobs": lambda: self._one(_jobs(project_id, (JobStatus.RUNNING,))),
            "queued_jobs": lambda: self._one(_jobs(project_id, WAITING)),
            "stored_bytes": lambda: self._one(_bytes(project_id)),
            "trainer_seconds_per_day": lambda: int(self._trainer_seconds(project_id)),
        }[quota]()

    def admit_job(self, job: JobRecord) -> int:
        """Check that a job just added has room; call it last in the transaction that adds it, since others then wait.

        Gives its place among its project's queued jobs, which it takes to count them. Raises QuotaExceededError.
        """
        return self._check_jobs(job.project_id, self._locked_limits(job.project_id), job.priority, more=0)

    def expect_job(self, project_id: str) -> None:
        """Say whether another job would be refused now. Raises QuotaExceededError."""
        self._check_jobs(project_id, self._limits(project_id), 0, more=1)

    def _check_jobs(self, project_id: str, limits: QuotaLimits, priority: int, more: int) -> int:
        """Compare what there is, and `more` jobs that are not there yet, with the limits.

        Gives how many of the project's queued jobs have at least this priority.
        """
        counted = {"project_id": project_id, "priority": priority}
        queued, before, stored = self.session.execute(_waiting_and_stored(), counted).one()
        if limits.queued_jobs is not None and queued + more > limits.queued_jobs:
            raise QuotaExceededError("queued_jobs", limits.queued_jobs)
        if limits.stored_bytes is not None and stored > limits.stored_bytes:
            raise QuotaExceededError("stored_bytes", limits.stored_bytes)
        seconds = limits.trainer_seconds_per_day
        if seconds is not None and self.used(project_id, "trainer_seconds_per_day") >= seconds:
            raise QuotaExceededError("trainer_seconds_per_day", seconds)
        return int(before)

    def admit_bytes(self, project_id: str, count: int) -> None:
        """Check that there is room for `count` bytes more; call it in the transaction that adds them, before that.

        Raises QuotaExceededError.
        """
        self._check_bytes(project_id, count, self._locked_limits(project_id))

    def expect_bytes(self, project_id: str, count: int) -> None:
        """Refuse a file of `count` bytes early if there is no room for it now. Raises QuotaExceededError."""
        self._check_bytes(project_id, count, self._limits(project_id))

    def _check_bytes(self, project_id: str, count: int, limits: QuotaLimits) -> None:
        if limits.stored_bytes is not None and self._one(_bytes(project_id)) + count > limits.stored_bytes:
            raise QuotaExceededError("stored_bytes", limits.stored_bytes)

    def _locked_limits(self, project_id: str) -> QuotaLimits:
        """Lock the project's row, so that calls which add to the same quota take turns until they commit."""
        return self._limits(project_id, locked=True)

    def _limits(self, project_id: str, *, locked: bool = False) -> QuotaLimits:
        own = self.session.execute(_own_limits(locked), {"project_id": project_id}).one_or_none()
        if own is None:
            raise RecordNotFoundError("project", project_id)
        running, queued, stored, seconds = own
        return _filled(running, queued, stored, seconds, self.defaults)

    def _one(self, query: Select[int]) -> int:
        return int(self.session.execute(query).scalar_one())

    def _trainer_seconds(self, project_id: str) -> float:
        day, seconds = _seconds_today(self.session, JobRecord.project_id == project_id)
        deleted = select(ProjectRecord.deleted_seconds).where(
            ProjectRecord.id == project_id, ProjectRecord.deleted_day == day
        )
        return seconds + (self.session.execute(deleted).scalar_one_or_none() or 0.0)


def keep_seconds_of(session: Session, job: JobRecord) -> None:
    """Go on counting what a finished job took today once it is deleted: its quota would be free again otherwise."""
    day, seconds = _seconds_today(session, JobRecord.id == job.id)
    kept = case((ProjectRecord.deleted_day == day, ProjectRecord.deleted_seconds), else_=0.0)
    session.execute(
        update(ProjectRecord)
        .where(ProjectRecord.id == job.project_id)
        .values(deleted_day=day, deleted_seconds=kept + seconds)
        .execution_options(synchronize_session=False)
    )


def _seconds_today(session: Session, of_jobs: ColumnElement[bool]) -> tuple[int, float]:
    """The number of the day in UTC, and how long attempts at these jobs took in it so far."""
    now = session.execute(select(database_now())).scalar_one()
    midnight = now - now % DAY_SECONDS
    query = (
        select(AttemptRecord.started_at, AttemptRecord.until(now))
        .join(JobRecord, JobRecord.id == AttemptRecord.job_id)
        .where(of_jobs, (AttemptRecord.ended_at.is_(None)) | (AttemptRecord.ended_at > midnight))
    )
    spans = ((max(began, midnight), until) for began, until in session.execute(query))
    return int(midnight // DAY_SECONDS), sum(max(0.0, end - begin) for begin, end in spans)


def limits_of(project: ProjectRecord, defaults: QuotaLimits) -> QuotaLimits:
    """The project's own limits, with the defaults where it has none."""
    return _filled(
        project.max_running_jobs,
        project.max_queued_jobs,
        project.max_stored_bytes,
        project.max_trainer_seconds_per_day,
        defaults,
    )


def _filled(
    running: int | None, queued: int | None, stored: int | None, seconds: int | None, defaults: QuotaLimits
) -> QuotaLimits:
    return QuotaLimits(
        running_jobs=_first(running, defaults.running_jobs),
        queued_jobs=_first(queued, defaults.queued_jobs),
        stored_bytes=_first(stored, defaults.stored_bytes),
        trainer_seconds_per_day=_first(seconds, defaults.trainer_seconds_per_day),
    )


def _first(own: int | None, default: int | None) -> int | None:
    return default if own is None else own


@functools.cache  # to build a query costs more than to run it
def _own_limits(locked: bool) -> Select[int | None, int | None, int | None, int | None]:
    own = (ProjectRecord.max_running_jobs, ProjectRecord.max_queued_jobs, ProjectRecord.max_stored_bytes)
    query = select(*own, ProjectRecord.max_trainer_seconds_per_day).where(ProjectRecord.id == bindparam("project_id"))
    # not against the foreign keys of rows that others add meanwhile
    return query.with_for_update(key_share=True) if locked else query


@functools.cache
def _waiting_and_stored() -> Select[int, int, int]:
    """How many jobs wait, how many of them are queued with at least a priority, and the stored bytes."""
    project_id: BindParameter[str] = bindparam("project_id")
    before = and_(JobRecord.status == JobStatus.QUEUED, JobRecord.priority >= bindparam("priority"))
    jobs = _jobs(project_id, WAITING).add_columns(func.count().filter(before).label("before")).subquery()
    waiting, queued = jobs.c
    return select(waiting, queued, _bytes(project_id).scalar_subquery())


def _jobs(project_id: str | BindParameter[str], statuses: tuple[JobStatus, ...]) -> Select[int]:
    return select(func.count()).where(JobRecord.project_id == project_id, JobRecord.status.in_(statuses))


def _bytes(project_id: str | BindParameter[str]) -> Select[int]:
    """The bytes of files that are of no checkpoint, and of the parts of uploads that may still become files."""
    own = (FileRecord.project_id == project_id, FileRecord.checkpoint_id.is_(None))
    files = select(func.coalesce(func.sum(FileRecord.bytes), 0)).where(*own)
    parts = (
        select(func.coalesce(func.sum(UploadPartRecord.bytes), 0))
        .join(UploadRecord, UploadRecord.id == UploadPartRecord.upload_id)
        .where(
            UploadRecord.project_id == project_id,
            UploadRecord.status == "pending",
            UploadRecord.expires_at > database_now(),
        )
    )
    return select(files.scalar_subquery() + parts.scalar_subquery())
