"""Jobs as their callers see them: read, cancel, pause, resume, delete, and the models they made."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, and_, delete, or_, select
from sqlalchemy.orm import Session

from sgg_store.checkpoints import named_for
from sgg_store.errors import ModelNotFoundError, RecordNotFoundError, TransitionError
from sgg_store.events import NewEvent
from sgg_store.job_state import ACTIVE, TERMINAL, JobStatus
from sgg_store.objects import job_prefix
from sgg_store.pages import Page, read_page
from sgg_store.quotas import keep_seconds_of
from sgg_store.records import (
    CheckpointRecord,
    FileRecord,
    JobMetadataRecord,
    JobRecord,
)
from sgg_store.transitions import cancel_job, pause_job, requeue_job

BEING_CANCELLED = "It is being cancelled, which cannot be taken back; submit a new job to train again."
NOT_FINISHED = "Cancel it or wait for its end, then delete it."
NOT_PAUSED = "Only a paused job can be resumed; a queued or running one goes on by itself, a finished one never does."


class Jobs:
    """The jobs of projects. A job of another project is not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

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
        without_metadata: bool = False,
        status: JobStatus | None = None,
    ) -> Page[JobRecord]:
        """The project's jobs with all pairs of `metadata` and this status, newest first. Raises CursorNotFoundError."""
        only: list[ColumnElement[bool]] = [] if status is None else [JobRecord.status == status]
        if without_metadata:
            only.append(~select(1).where(JobMetadataRecord.job_id == JobRecord.id).exists())
        for key, value in (metadata or {}).items():
            pair = and_(JobMetadataRecord.key == key, JobMetadataRecord.value == value)
            only.append(select(1).where(JobMetadataRecord.job_id == JobRecord.id, pair).exists())
        return read_page(
            self.session,
            "fine-tuning job",
            select(JobRecord).where(JobRecord.project_id == project_id),
            (JobRecord.created_at, JobRecord.id),
            only=only,
            after=after,
            limit=limit,
            order="desc",
        )

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
        """The job that made this model. Raises ModelNotFoundError, also if the model was deleted."""
        job = self.session.scalars(_models(project_id).where(JobRecord.fine_tuned_model == name)).one_or_none()
        if job is None:
            raise ModelNotFoundError("model", name)
        return job

    def list_models(self, project_id: str) -> list[JobRecord]:
        """The jobs whose models exist, oldest first."""
        return list(self.session.scalars(_models(project_id).order_by(JobRecord.finished_at, JobRecord.id)))

    def _held(self, project_id: str, job_id: str) -> JobRecord:
        """The job, which neither a worker nor another caller can change until this transaction ends."""
        query = select(JobRecord).where(JobRecord.id == job_id, JobRecord.project_id == project_id).with_for_update()
        return self._one(query.execution_options(populate_existing=True), "fine-tuning job", job_id)

    def _tell(self, job: JobRecord, message: str) -> None:
        job.last_event_seq += 1
        self.session.add(NewEvent(message).numbered(job, job.last_event_seq))

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
