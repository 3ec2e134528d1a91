"""Jobs as their callers see them: create, read, cancel, and the models they made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.checkpoints import Checkpoints
from sgg_store.errors import IdempotencyMismatchError, RecordNotFoundError, TransitionError
from sgg_store.events import NewEvent
from sgg_store.files import Files
from sgg_store.job_state import JobStatus
from sgg_store.pages import Page, read_page
from sgg_store.records import JobMetadataRecord, JobRecord, ProjectRecord, database_now
from sgg_store.retries import ring_delay
from sgg_store.transitions import cancel_job


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
    suffix: str | None = None
    method_request: dict[str, Any] | None = None
    user_metadata: dict[str, str] = field(default_factory=dict)
    api_key_id: str | None = None
    idempotency_key: str | None = None
    request_hash: str = ""
    priority: int = 0


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
        project = select(ProjectRecord.id).where(ProjectRecord.id == new.project_id).with_for_update()
        if self.session.scalars(project).one_or_none() is None:  # locked: equal requests take turns
            raise RecordNotFoundError("project", new.project_id)
        earlier = self._made_before(new, repeats_within)
        if earlier is not None:
            return earlier, False
        named = (new.training_file_id, new.validation_file_id, *new.source_file_ids)
        Files(self.session).hold(new.project_id, [file_id for file_id in named if file_id is not None])
        job = self._row_of(new)
        self.session.add(job)
        self.session.flush()
        self.session.add(NewEvent("The job is queued.").numbered(job, 1))
        self.session.flush()
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
    ) -> Page[JobRecord]:
        """The project's jobs with all pairs of `metadata`, newest first. Raises CursorNotFoundError."""
        query = select(JobRecord).where(JobRecord.project_id == project_id)
        for key, value in (metadata or {}).items():
            pair = and_(JobMetadataRecord.key == key, JobMetadataRecord.value == value)
            query = query.where(select(1).where(JobMetadataRecord.job_id == JobRecord.id, pair).exists())
        return read_page(
            self.session,
            "fine-tuning job",
            query,
            (JobRecord.created_at, JobRecord.id),
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
        """Cancel a queued job at once, or ask the worker of a running one to stop (at its next heartbeat).

        Asking twice is the same as asking once. Raises RecordNotFoundError, or TransitionError if the job is finished.
        """
        job = self.get(project_id, job_id)
        checkpoint = Checkpoints(self.session).newest(job_id)
        cancelled = cancel_job(self.session, job_id, JobStatus.QUEUED, checkpoint.step if checkpoint else None)
        if cancelled is not None:
            self.session.flush()
            return cancelled
        flagged = self.session.scalars(
            update(JobRecord)
            .where(JobRecord.id == job_id, JobRecord.status == JobStatus.RUNNING, JobRecord.cancel_requested.is_(False))
            .values(cancel_requested=True, last_event_seq=JobRecord.last_event_seq + 1)
            .returning(JobRecord)
            .execution_options(populate_existing=True, synchronize_session=False)
        ).one_or_none()
        if flagged is not None:
            self.session.add(NewEvent("Cancellation was requested.").numbered(flagged, flagged.last_event_seq))
            self.session.flush()
            return flagged
        self.session.refresh(job)
        if job.status is not JobStatus.RUNNING:
            raise TransitionError(job_id, job.status, "cancelled")
        return job

    def queue_position(self, job: JobRecord) -> int | None:
        """How many queued jobs are claimed before this one, plus 1; None if it is not queued."""
        if job.status is not JobStatus.QUEUED:
            return None
        earlier = tuple_(JobRecord.created_at, JobRecord.id) < (job.created_at, job.id)
        ahead = or_(JobRecord.priority > job.priority, and_(JobRecord.priority == job.priority, earlier))
        query = select(func.count()).select_from(JobRecord).where(JobRecord.status == JobStatus.QUEUED, ahead)
        return self.session.execute(query).scalar_one() + 1

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

    def _made_before(self, new: NewJob, repeats_within: float | None) -> JobRecord | None:
        if new.idempotency_key is not None:
            earlier = self.find_by_idempotency_key(new.project_id, new.idempotency_key)
            if earlier is not None and earlier.request_hash != new.request_hash:
                raise IdempotencyMismatchError(new.idempotency_key, earlier.id)
            return earlier
        if repeats_within is not None:
            return self.find_recent_duplicate(new.request_hash, new.api_key_id, repeats_within)
        return None

    @staticmethod
    def _row_of(new: NewJob) -> JobRecord:
        return JobRecord(
            id=ids.new_id("ftjob-"),
            project_id=new.project_id,
            base_model=new.base_model,
            spec=new.spec,
            seed=new.seed,
            training_file_id=new.training_file_id,
            validation_file_id=new.validation_file_id,
            source_file_ids=list(new.source_file_ids),
            suffix=new.suffix,
            method_request=new.method_request,
            user_metadata=dict(new.user_metadata),
            api_key_id=new.api_key_id,
            idempotency_key=new.idempotency_key,
            request_hash=new.request_hash,
            priority=new.priority,
            next_ring_at=database_now() + ring_delay(0),
            last_event_seq=1,
        )

    def _one(self, query: Select[JobRecord], kind: str, record_id: str) -> JobRecord:
        job = self.session.scalars(query).one_or_none()
        if job is None:
            raise RecordNotFoundError(kind, record_id)
        return job


def _models(project_id: str) -> Select[JobRecord]:
    return select(JobRecord).where(
        JobRecord.project_id == project_id,
        JobRecord.fine_tuned_model.is_not(None),
        JobRecord.model_deleted_at.is_(None),
    )
