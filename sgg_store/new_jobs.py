"""Jobs that are asked for: made once, however often the same request comes."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Insert, Select, bindparam, func, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from sgg_store import ids
from sgg_store.errors import IdempotencyMismatchError, RecordNotFoundError
from sgg_store.events import NewEvent
from sgg_store.files import Files
from sgg_store.job_state import JobStatus
from sgg_store.permissions import usable_by
from sgg_store.records import (
    CheckpointRecord,
    EventRecord,
    JobMetadataRecord,
    JobRecord,
    ProjectRecord,
    database_now,
)
from sgg_store.retries import ring_delay


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
    user_metadata: dict[str, str] = field(default_factory=dict)
    api_key_id: str | None = None
    idempotency_key: str | None = None
    request_hash: str = ""
    priority: int = 0
    origin: dict[str, str] = field(default_factory=dict)


class NewJobs:
    """Makes the jobs of projects."""

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
        earlier = self.made_before(
            new.project_id, new.api_key_id, new.request_hash, new.idempotency_key, repeats_within
        )
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

    def made_before(
        self,
        project_id: str,
        api_key_id: str | None,
        request_hash: str,
        idempotency_key: str | None,
        repeats_within: float | None,
    ) -> JobRecord | None:
        """The job that the same request made, as `create` tells it. Raises IdempotencyMismatchError."""
        if idempotency_key is not None:
            earlier = self.find_by_idempotency_key(project_id, idempotency_key)
            if earlier is not None and earlier.request_hash != request_hash:
                raise IdempotencyMismatchError(idempotency_key, earlier.id)
            return earlier
        if repeats_within is not None:
            return self.find_recent_duplicate(request_hash, api_key_id, repeats_within)
        return None

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
            JobRecord.status != JobStatus.CANCELLED,  # by somebody who knew of it, and asks anew
        )
        return self.session.scalars(query.order_by(JobRecord.created_at.desc()).limit(1)).one_or_none()

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

    def _added(self, new: NewJob) -> JobRecord:
        """Insert a queued job. The record is a copy of its row: what is changed in it is changed nowhere else."""
        values = _AT_FIRST | _asked(new)
        times = self.session.execute(_new_job(), values).one()
        if new.user_metadata:
            pairs = [{"job_id": values["id"], "key": key, "value": value} for key, value in new.user_metadata.items()]
            self.session.execute(_new_metadata(), pairs)
        return JobRecord(**values, **times._mapping, user_metadata=new.user_metadata)

    def _hold_checkpoint(self, project_id: str, checkpoint_id: str) -> None:
        """Keep a checkpoint from being deleted until this transaction ends. Raises RecordNotFoundError."""
        query = select(CheckpointRecord.id).where(CheckpointRecord.id == checkpoint_id, usable_by(project_id))
        if self.session.scalars(query.with_for_update(read=True)).one_or_none() is None:
            raise RecordNotFoundError("checkpoint", checkpoint_id)


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
        "api_key_id": new.api_key_id,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "priority": new.priority,
        "origin": new.origin,
    }
