"""Jobs as their callers see them: create, read, cancel, pause, resume, and the models they made."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Insert, Select, and_, bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from sgg_store import ids
from sgg_store.checkpoints import named_for
from sgg_store.errors import IdempotencyMismatchError, RecordNotFoundError, TransitionError
from sgg_store.events import NewEvent
from sgg_store.files import Files
from sgg_store.job_state import ACTIVE, TERMINAL, JobStatus
from sgg_store.objects import job_prefix
from sgg_store.pages import Page, read_page
from sgg_store.permissions import usable_by
from sgg_store.quotas import keep_seconds_of
from sgg_store.records import (
    CheckpointRecord,
    EventRecord,
    FileRecord,
    JobMetadataRecord,
    JobRecord,
    ProjectRecord,
    database_now,
)
from sgg_store.retries import ring_delay
from sgg_store.transitions import cancel_job, pause_job, requeue_job

BEING_CANCELLED = "It is being cancelled, which cannot be taken back; submit a new job to train again."
NOT_FINISHED = "Cancel it or wait for its end, then delete it."
NOT_PAUSED = "Only a paused job can be resumed; a queued or running one goes on by itself, a finished one never does."


@dataclass(frozen=True, slots=True)
class Start:
    """What a job starts from, as its caller named it, and where it is: in a file or in a checkpoint."""

    name: str
    file_id: str | None = None
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that was asked for. `spec` is a TrainingSpec as JSON, `request_hash` a sha256 over the request's body."""

    project_id: str
    base_model: str
    spec: dict[str, Any]
    seed: int
    training_file_id: str
    validation_file_id: str | None = None
    source_file_ids: tuple[str, ...] = ()
    retention_file_id: str | None = None
    start: Start | None = None
    suffix: str | None = None
    method_request: dict[str, Any] | None = None
    user_metadata: dict[str, str] = field(default_factory=dict)
    api_key_id: str | None = None
    idempotency_key: str | None = None
    request_hash: str = ""
    priority: int = 0
    origin: dict[str, str] = field(default_factory=dict)


class Jobs:
    """The jobs of projects. A job of another project is not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def create(self, new: NewJob, *, repeats_within: float | None = None) -> tuple[JobRecord, bool]:
        """Add a queued job with its first event, or find the one that the same request made before.

        The second value says whether the job is new. A request is the same if it has the same Idempotency-Key and
        body; or, when `repeats_within` is given because the client said that it is retrying, if the same API key sent
        the same body within that many seconds. Its first doorbell is for the caller to ring after the commit; the
        dispatcher rings again if nobody comes.

        Raises:
            RecordNotFoundError: a file or the project is missing.
            IdempotencyMismatchError: the key was used for another body.

        """
        self._wait_for_equal_requests(new)
        earlier = self._made_before(new, repeats_within)
        if earlier is not None:
            return earlier, False
        start_file_id = new.start.file_id if new.start else None
        named = (
            new.training_file_id,
            new.validation_file_id,
            *new.source_file_ids,
            new.retention_file_id,
            start_file_id,
        )
        if new.start is not None and new.start.checkpoint_id is not None:
            self._hold_checkpoint(new.project_id, new.start.checkpoint_id)
        Files(self.session).hold(new.project_id, [file_id for file_id in named if file_id is not None])
        job = self._added(new)
        self.session.execute(_new_event(), NewEvent("The job is queued.").values(job, 1))
        return job, True

    def get(self, project_id: str, job_id: str) -> JobRecord:
        """The job. Raises RecordNotFoundError."""
        query = select(JobRecord).where(JobRecord.id == job_id, JobRecord.project_id == project_id)
        return self._one(query, "fine-tuning job", job_id)

    def list_page(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: dict[str, str] | None = None,
        status: JobStatus | None = None,
    ) -> Page[JobRecord]:
        """The project's jobs with all pairs of `metadata` and this status, newest first. Raises CursorNotFoundError."""
        only: list[ColumnElement[bool]] = [] if status is None else [JobRecord.status == status]
        for key, value in (metadata or {}).items():
            pair = and_(JobMetadataRecord.key == key, JobMetadataRecord.value == value)
            only.append(select(1).where(JobMetadataRecord.job_id == JobRecord.id, pair).exists())
        return read_page(
            self.session,
            "fine-tuning job",
            select(JobRecord).where(JobRecord.project_id == project_id),
            (JobRecord.created_at, JobRecord.id),
            only=only,
            after=None if after is None else JobRecord.id == after,
            cursor=after,
            limit=limit,
            order="desc",
        )

    def find_by_idempotency_key(self, project_id: str, key: str) -> JobRecord | None:
        """The job that a request with this Idempotency-Key made."""
        query = select(JobRecord).where(JobRecord.project_id == project_id, JobRecord.idempotency_key == key)
        return self.session.scalars(query).one_or_none()

    def find_recent_duplicate(self, request_hash: str, api_key_id: str | None, within: float) -> JobRecord | None:
        """The newest job that the same API key asked for with the same body within the last `within` seconds."""
        query = select(JobRecord).where(
            JobRecord.request_hash == request_hash,
            JobRecord.api_key_id == api_key_id,
            JobRecord.created_at > database_now() - within,
        )
        return self.session.scalars(query.order_by(JobRecord.created_at.desc()).limit(1)).one_or_none()

    def request_cancel(self, project_id: str, job_id: str) -> JobRecord:
        """Cancel a queued or paused job at once, or ask the worker of a running one to stop before its next step.

        Asking twice is the same as asking once. Raises RecordNotFoundError, or TransitionError if the job is finished.
        """
        job = self._held(project_id, job_id)
        if job.status in TERMINAL:
            raise TransitionError(job_id, job.status, "cancelled")
        if job.status is not JobStatus.RUNNING:
            cancel_job(self.session, job)
        elif not job.cancel_requested:
            job.cancel_requested = True
            self._tell(job, "Cancellation was requested.")
        self.session.flush()
        return job

    def request_pause(self, project_id: str, job_id: str) -> JobRecord:
        """Pause a queued job at once, or ask the worker of a running one to save its state and stop.

        Asking twice is the same as asking once. Raises RecordNotFoundError, or TransitionError if the job is finished
        or being cancelled.
        """
        job = self._held(project_id, job_id)
        if job.status in TERMINAL:
            raise TransitionError(job_id, job.status, "paused")
        if job.status is JobStatus.QUEUED:
            pause_job(self.session, job)
        elif job.status is JobStatus.RUNNING and job.cancel_requested:
            raise TransitionError(job_id, job.status, "paused", BEING_CANCELLED)
        elif job.status is JobStatus.RUNNING and not job.pause_requested:
            job.pause_requested = True
            self._tell(job, "A pause was requested.")
        self.session.flush()
        return job

    def resume(self, project_id: str, job_id: str) -> JobRecord:
        """Queue a paused job, to go on where it stopped; or withdraw a pause that a running one has not yet obeyed.

        Its doorbell is for the caller to ring after the commit. Raises RecordNotFoundError, or TransitionError if there
        is nothing to resume.
        """
        job = self._held(project_id, job_id)
        if job.status is JobStatus.PAUSED:
            requeue_job(self.session, job, NewEvent("The job was resumed. It is queued again."), 0.0)
        elif job.status is JobStatus.RUNNING and job.pause_requested and not job.cancel_requested:
            job.pause_requested = False
            self._tell(job, "The pause was withdrawn before it began.")
        else:
            remedy = BEING_CANCELLED if job.cancel_requested and job.status is JobStatus.RUNNING else NOT_PAUSED
            raise TransitionError(job_id, job.status, "resumed", remedy)
        self.session.flush()
        return job

    def delete(self, project_id: str, job_id: str) -> str:
        """Delete a finished job's row with all that belongs to it, its result files among them.

        Gives the folder of its objects, so that the caller can delete these after the commit. Raises
        RecordNotFoundError, or TransitionError if the job is not finished, or one that is not starts from it.
        """
        job = self._held(project_id, job_id)
        if job.status not in TERMINAL:
            raise TransitionError(job_id, job.status, "deleted", NOT_FINISHED)
        starting = self._starting_from(job)
        if starting:
            remedy = f"Cancel {', '.join(starting)}, which start from it, or wait for their end."
            raise TransitionError(job_id, job.status, "deleted", remedy)
        keep_seconds_of(self.session, job)
        self.session.execute(delete(FileRecord).where(FileRecord.id.in_(job.result_file_ids)))
        self.session.execute(
            delete(JobRecord).where(JobRecord.id == job_id).execution_options(synchronize_session=False)
        )
        return job_prefix(job_id)

    def _starting_from(self, job: JobRecord) -> list[str]:
        """The unfinished jobs that start from a job's checkpoints or results; locked, so that none is added."""
        checkpoints = select(CheckpointRecord.id).where(CheckpointRecord.job_id == job.id).with_for_update()
        files = select(FileRecord.id).where(FileRecord.id.in_(job.result_file_ids)).with_for_update()
        checkpoint_ids, file_ids = list(self.session.scalars(checkpoints)), list(self.session.scalars(files))
        starts = or_(JobRecord.start_checkpoint_id.in_(checkpoint_ids), JobRecord.start_file_id.in_(file_ids))
        query = select(JobRecord.id, JobRecord.project_id).where(JobRecord.status.in_(ACTIVE), starts)
        return named_for(job.project_id, self.session.execute(query.order_by(JobRecord.created_at)))

    def get_by_fine_tuned_model(self, project_id: str, name: str) -> JobRecord:
        """The job that made this model. Raises RecordNotFoundError, also after `delete_model`."""
        return self._one(_models(project_id).where(JobRecord.fine_tuned_model == name), "model", name)

    def list_models(self, project_id: str) -> list[JobRecord]:
        """The jobs whose models exist, oldest first."""
        return list(self.session.scalars(_models(project_id).order_by(JobRecord.finished_at, JobRecord.id)))

    def delete_model(self, project_id: str, name: str) -> JobRecord:
        """Delete a model; its job and result files stay. Raises RecordNotFoundError."""
        job = self.get_by_fine_tuned_model(project_id, name)
        job.model_deleted_at = self.session.execute(select(database_now())).scalar_one()
        self.session.flush()
        return job

    def _wait_for_equal_requests(self, new: NewJob) -> None:
        """Equal requests take turns until they commit; others do not wait for them. SQLite's writers take turns anyway.

        Raises RecordNotFoundError if there is no such project.
        """
        values: dict[str, str | int] = {"project_id": new.project_id}
        takes_turns = self.session.get_bind().dialect.name == "postgresql"
        if takes_turns:
            same = new.idempotency_key or f"{new.api_key_id} {new.request_hash}"
            digest = hashlib.sha256(f"{new.project_id} {same}".encode("utf-8", "surrogatepass")).digest()
            values["request"] = int.from_bytes(digest[:8], signed=True)
        if self.session.execute(_project(takes_turns), values).one_or_none() is None:
            raise RecordNotFoundError("project", new.project_id)

    def _made_before(self, new: NewJob, repeats_within: float | None) -> JobRecord | None:
        if new.idempotency_key is not None:
            earlier = self.find_by_idempotency_key(new.project_id, new.idempotency_key)
            if earlier is not None and earlier.request_hash != new.request_hash:
                raise IdempotencyMismatchError(new.idempotency_key, earlier.id)
            return earlier
        if repeats_within is not None:
            return self.find_recent_duplicate(new.request_hash, new.api_key_id, repeats_within)
        return None

    def _added(self, new: NewJob) -> JobRecord:
        """Insert a queued job. The record is a copy of its row: what is changed in it is changed nowhere else."""
        values = _AT_FIRST | _asked(new)
        times = self.session.execute(_new_job(), values).one()
        if new.user_metadata:
            pairs = [{"job_id": values["id"], "key": key, "value": value} for key, value in new.user_metadata.items()]
            self.session.execute(_new_metadata(), pairs)
        return JobRecord(**values, **times._mapping, user_metadata=new.user_metadata)

    def _held(self, project_id: str, job_id: str) -> JobRecord:
        """The job, which neither a worker nor another caller can change until this transaction ends."""
        query = select(JobRecord).where(JobRecord.id == job_id, JobRecord.project_id == project_id).with_for_update()
        return self._one(query.execution_options(populate_existing=True), "fine-tuning job", job_id)

    def _hold_checkpoint(self, project_id: str, checkpoint_id: str) -> None:
        """Keep a checkpoint from being deleted until this transaction ends. Raises RecordNotFoundError."""
        query = select(CheckpointRecord.id).where(CheckpointRecord.id == checkpoint_id, usable_by(project_id))
        if self.session.scalars(query.with_for_update(read=True)).one_or_none() is None:
            raise RecordNotFoundError("checkpoint", checkpoint_id)

    def _tell(self, job: JobRecord, message: str) -> None:
        job.last_event_seq += 1
        self.session.add(NewEvent(message).numbered(job, job.last_event_seq))

    def _one(self, query: Select[JobRecord], kind: str, record_id: str) -> JobRecord:
        job = self.session.scalars(query).one_or_none()
        if job is None:
            raise RecordNotFoundError(kind, record_id)
        return job


@functools.cache  # to build a query costs more than to run it
def _project(takes_turns: bool) -> Select[Any]:
    query: Select[Any] = select(ProjectRecord.id).where(ProjectRecord.id == bindparam("project_id"))
    if takes_turns:
        query = query.add_columns(func.pg_advisory_xact_lock(bindparam("request", type_=BigInteger())))
    return query


@functools.cache
def _new_job() -> ReturningInsert[Any]:
    jobs = JobRecord.metadata.tables[JobRecord.__tablename__]
    at = jobs.c.created_at, jobs.c.next_ring_at
    return insert(jobs).values(next_ring_at=database_now() + ring_delay(0)).returning(*at)


@functools.cache
def _new_metadata() -> Insert:
    return insert(JobRecord.metadata.tables[JobMetadataRecord.__tablename__])


@functools.cache
def _new_event() -> Insert:
    return insert(JobRecord.metadata.tables[EventRecord.__tablename__])


_AT_FIRST: dict[str, Any] = {
    "status": JobStatus.QUEUED,
    "step": 0,
    "result_file_ids": [],
    "current_attempt": 0,
    "infra_failures": 0,
    "cancel_requested": False,
    "pause_requested": False,
    "rings": 0,
    "last_event_seq": 1,
}
"""What every job has when it is made."""


def _asked(new: NewJob) -> dict[str, Any]:
    """What its caller gives a job, and its id."""
    start = new.start
    return {
        "id": ids.new_id("ftjob-"),
        "project_id": new.project_id,
        "base_model": new.base_model,
        "spec": new.spec,
        "seed": new.seed,
        "training_file_id": new.training_file_id,
        "validation_file_id": new.validation_file_id,
        "source_file_ids": list(new.source_file_ids),
        "retention_file_id": new.retention_file_id,
        "start_name": start.name if start else None,
        "start_file_id": start.file_id if start else None,
        "start_checkpoint_id": start.checkpoint_id if start else None,
        "suffix": new.suffix,
        "method_request": new.method_request,
        "api_key_id": new.api_key_id,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "priority": new.priority,
        "origin": new.origin,
    }


def _models(project_id: str) -> Select[JobRecord]:
    return select(JobRecord).where(
        JobRecord.project_id == project_id,
        JobRecord.fine_tuned_model.is_not(None),
        JobRecord.model_deleted_at.is_(None),
    )
