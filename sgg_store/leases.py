"""Who runs a job: claim, heartbeat, finish, and what happens when a worker falls silent."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from sgg_store.attempts import Lease, guard, holds
from sgg_store.checkpoints import Checkpoints
from sgg_store.errors import LeaseLostError
from sgg_store.events import NewEvent
from sgg_store.instruments import ATTEMPTS_ENDED, FENCED_WRITES, count_at_commit
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.records import AttemptRecord, CheckpointRecord, FileRecord, JobRecord, database_now
from sgg_store.retries import Cause, Failure, decide
from sgg_store.transitions import cancel_job, fail_job, move_job, pause_job, requeue_job

_OVERDUE = and_(AttemptRecord.state == AttemptState.RUNNING, AttemptRecord.lease_expires_at <= database_now())


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease and everything its worker needs to begin. The records are detached: plain values, no session."""

    lease: Lease
    spec: dict[str, Any]
    base_model: str
    model_name: str  # of the model that the job will have made
    training_file: FileRecord
    validation_file: FileRecord | None
    source_files: tuple[FileRecord, ...]
    retention_file: FileRecord | None
    origin: dict[str, str]  # see sgg_store.tracing
    spent_seconds: float  # by earlier attempts, together
    start_name: str | None
    start: FileRecord | CheckpointRecord | None  # where the first weights are, unless the job goes on from a checkpoint
    checkpoint: CheckpointRecord | None  # the newest one to resume from; verify it, and see Checkpoints.mark_damaged


@dataclass(frozen=True, slots=True)
class Signals:
    """What the caller of a running job wishes, as a heartbeat brings it back."""

    cancel_requested: bool
    pause_requested: bool

    @property
    def wish(self) -> Literal["cancel", "pause"] | None:
        """What is to be done: a cancellation is final, so it goes before a pause."""
        return "cancel" if self.cancel_requested else "pause" if self.pause_requested else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a succeeded job leaves. The result files' rows are added in the transaction that records the result."""

    fine_tuned_model: str
    trained_tokens: int
    result_file_ids: tuple[str, ...]
    final_figures: dict[str, float] = field(default_factory=dict)
    """Of the run that was kept; what is not here is as the last step told it."""


class Leases:
    """Claims and ends attempts. Every method belongs into a `Database.begin()` transaction of its own."""

    def __init__(self, session: Session, lease_seconds: float = 60.0) -> None:
        self.session = session
        self.lease_seconds = lease_seconds

    def claim(self, job_id: str, owner: str) -> Claim | None:
        """Take a queued job: it is running from now on, in a new attempt with a fresh token.

        None if the job is not queued (a doorbell that came twice, or late), does not exist, or lost an input file
        (then it has failed).
        """
        checkpoint = Checkpoints(self.session).newest(job_id)
        resume = "from the beginning" if checkpoint is None else f"from step {checkpoint.step}"
        job = move_job(
            self.session,
            job_id,
            JobStatus.QUEUED,
            JobStatus.RUNNING,
            NewEvent(f"Training starts {resume}.", data={"resumed_from_step": checkpoint.step if checkpoint else 0}),
            current_attempt=JobRecord.current_attempt + 1,
            started_at=func.coalesce(JobRecord.started_at, database_now()),
        )
        if job is None:
            return None
        lease = Lease(job.id, job.project_id, job.current_attempt, secrets.token_hex(16), owner)
        start_step = checkpoint.step if checkpoint else 0
        self.session.add(
            AttemptRecord(
                job_id=job.id,
                number=lease.attempt,
                token=lease.token,
                owner=owner,
                lease_expires_at=database_now() + self.lease_seconds,
                start_step=start_step,
                last_step=start_step,
            )
        )
        self.session.flush()
        return self._claim_of(job, lease, checkpoint)

    def heartbeat(self, lease: Lease, step: int | None = None) -> Signals:
        """Renew the lease and note the step reached. Raises LeaseLostError: then stop at once and write nothing."""
        values: dict[str, Any] = {"lease_expires_at": database_now() + self.lease_seconds}
        if step is not None:
            values["last_step"] = step
        wishes = (JobRecord.cancel_requested, JobRecord.pause_requested)
        renewed = self.session.execute(
            update(AttemptRecord)
            .where(holds(lease))
            .values(**values)
            .returning(*(select(wish).where(JobRecord.id == lease.job_id).scalar_subquery() for wish in wishes))
            .execution_options(synchronize_session=False)
        ).one_or_none()
        if renewed is None:
            FENCED_WRITES.inc()
            raise LeaseLostError(lease.job_id, lease.attempt)
        return Signals(*renewed)

    def signals(self, lease: Lease) -> Signals:
        """The same wishes without a heartbeat: a look, which proves nothing about the lease."""
        query = select(JobRecord.cancel_requested, JobRecord.pause_requested).where(JobRecord.id == lease.job_id)
        return Signals(*self.session.execute(query).one())

    def succeed(self, lease: Lease, result: JobResult) -> None:
        """End attempt and job with a result, also if cancellation was requested meanwhile. Raises LeaseLostError."""
        self._end(guard(self.session, lease), AttemptState.SUCCEEDED)
        move_job(
            self.session,
            lease.job_id,
            JobStatus.RUNNING,
            JobStatus.SUCCEEDED,
            NewEvent(f"The job succeeded. The model is {result.fine_tuned_model}."),
            fine_tuned_model=result.fine_tuned_model,
            trained_tokens=result.trained_tokens,
            result_file_ids=list(result.result_file_ids),
            final_figures=result.final_figures,
        )
        self.session.flush()

    def fail(
        self, lease: Lease, code: str, message: str, cause: Cause = Cause.USER, *, param: str | None = None
    ) -> None:
        """End attempt and job for good, for a reason that another attempt would meet again. Raises LeaseLostError.

        `message` is shown to the caller: what is wrong and what to do. Use `give_back` for causes worth a retry.
        """
        self._end(guard(self.session, lease), AttemptState.FAILED, cause, code)
        fail_job(self.session, lease.job_id, Failure(code, message, param))
        self.session.flush()

    def cancelled(self, lease: Lease) -> None:
        """End attempt and job because cancellation was requested; checkpoints stay. Raises LeaseLostError."""
        self._end(guard(self.session, lease), AttemptState.CANCELLED)
        self._cancel(self._held(lease.job_id))

    def paused(self, lease: Lease) -> JobStatus:
        """End the attempt because a pause was requested; its checkpoint holds the exact state.

        Gives the job's new status: paused, or cancelled if that was requested meanwhile, or queued if the pause was
        withdrawn. Raises LeaseLostError.
        """
        self._end(guard(self.session, lease), AttemptState.PAUSED)
        job = self._held(lease.job_id)
        if job.cancel_requested:
            return self._cancel(job)
        if job.pause_requested:
            return self._pause(job)
        requeue_job(self.session, job, NewEvent("The job was resumed while it was pausing. It is queued again."), 0.0)
        return JobStatus.QUEUED

    def give_back(self, lease: Lease, cause: Cause, detail: str = "") -> JobStatus:
        """End the attempt without a result and queue the job again, unless the cause's budget is used up.

        `detail` is one line for people: exit code, signal, error. Gives the job's new status: queued, failed, or
        cancelled or paused if that was requested. Raises LeaseLostError.
        """
        return self._retry(guard(self.session, lease), cause, detail)

    def expire_overdue(self, limit: int = 100) -> list[str]:
        """Close attempts whose lease ran out, and queue, fail or cancel their jobs by the budget of lost attempts.

        Any number of reapers may run at once. Gives the ids of the jobs.
        """
        overdue = select(AttemptRecord).where(_OVERDUE).order_by(AttemptRecord.lease_expires_at)
        return self._lose(overdue.limit(limit), "its lease ran out")

    def overdue(self) -> bool:
        """Whether there is an attempt for `expire_overdue`."""
        return self.session.execute(select(1).where(_OVERDUE).limit(1)).first() is not None

    def expire_owned_by(self, owner: str) -> list[str]:
        """Close the running attempts of a worker that is known to be gone, without waiting for their leases.

        For a worker that starts again under its own name, which nobody else can have.
        """
        mine = select(AttemptRecord).where(AttemptRecord.state == AttemptState.RUNNING, AttemptRecord.owner == owner)
        return self._lose(mine, "its worker was started again")

    def _claim_of(self, job: JobRecord, lease: Lease, checkpoint: CheckpointRecord | None) -> Claim | None:
        named = [job.training_file_id, job.validation_file_id, *job.source_file_ids, job.retention_file_id]
        files = {file.id: file for file in self.session.scalars(select(FileRecord).where(FileRecord.id.in_(named)))}
        missing = [file_id for file_id in named if file_id is not None and file_id not in files]
        if missing:
            remedy = "Upload it again and submit the job with the new id."
            self.fail(lease, "file_not_found", f"The file {missing[0]} does not exist any more. {remedy}")
            return None
        start = self._start_of(job)
        if start is None and job.start_name is not None:
            told = f"{job.start_name}, which the job starts from, does not exist any more. Start from another one."
            self.fail(lease, "starting_point_not_found", told)
            return None
        return Claim(
            lease=lease,
            spec=job.spec,
            base_model=job.base_model,
            model_name=job.model_name,
            training_file=files[job.training_file_id],
            validation_file=files[job.validation_file_id] if job.validation_file_id else None,
            source_files=tuple(files[file_id] for file_id in job.source_file_ids),
            retention_file=files[job.retention_file_id] if job.retention_file_id else None,
            origin=job.origin or {},
            spent_seconds=self._spent_seconds(job.id),
            start_name=job.start_name,
            start=start,
            checkpoint=checkpoint,
        )

    def _spent_seconds(self, job_id: str) -> float:
        """How long the job's attempts took."""
        seconds = func.sum(AttemptRecord.until(0.0) - AttemptRecord.started_at)
        query = select(seconds).where(AttemptRecord.job_id == job_id, AttemptRecord.ended_at.is_not(None))
        return self.session.execute(query).scalar_one() or 0.0

    def _start_of(self, job: JobRecord) -> FileRecord | CheckpointRecord | None:
        if job.start_file_id is not None:
            return self.session.get(FileRecord, job.start_file_id)
        return self.session.get(CheckpointRecord, job.start_checkpoint_id) if job.start_checkpoint_id else None

    def _lose(self, query: Any, detail: str) -> list[str]:
        attempts: Sequence[AttemptRecord] = self.session.scalars(query.with_for_update(skip_locked=True)).all()
        for attempt in attempts:
            self._retry(attempt, Cause.LOST, detail)
        return [attempt.job_id for attempt in attempts]

    def _retry(self, attempt: AttemptRecord, cause: Cause, detail: str) -> JobStatus:
        verdict = decide(cause, self._ended_before(attempt, cause))
        state = {Cause.LOST: AttemptState.LOST, Cause.PREEMPTED: AttemptState.PREEMPTED}.get(cause, AttemptState.FAILED)
        self._end(attempt, state, cause, detail)
        job = self._held(attempt.job_id)
        if job.cancel_requested:
            return self._cancel(job)
        if isinstance(verdict, Failure):
            fail_job(self.session, attempt.job_id, verdict)
            self.session.flush()
            return JobStatus.FAILED
        if job.pause_requested:
            return self._pause(job)
        told = f"Attempt {attempt.number} ended early ({cause}: {detail}). The job is queued again."
        requeue_job(self.session, job, NewEvent(told, "warn"), verdict)
        self.session.flush()
        return JobStatus.QUEUED

    def _held(self, job_id: str) -> JobRecord:
        """The job's row, which nobody can change until this transaction ends: its wishes are the last ones."""
        query = select(JobRecord).where(JobRecord.id == job_id).with_for_update()
        return self.session.scalars(query.execution_options(populate_existing=True)).one()

    def _cancel(self, job: JobRecord) -> JobStatus:
        cancel_job(self.session, job)
        self.session.flush()
        return JobStatus.CANCELLED

    def _pause(self, job: JobRecord) -> JobStatus:
        pause_job(self.session, job)
        self.session.flush()
        return JobStatus.PAUSED

    def _ended_before(self, attempt: AttemptRecord, cause: Cause) -> int:
        query = select(func.count()).where(
            AttemptRecord.job_id == attempt.job_id,
            AttemptRecord.cause == cause,
            AttemptRecord.start_step == attempt.start_step,
        )
        return self.session.execute(query).scalar_one()

    def _end(
        self, attempt: AttemptRecord, state: AttemptState, cause: Cause | None = None, detail: str | None = None
    ) -> None:
        attempt.state = state
        attempt.cause = cause
        attempt.detail = detail
        attempt.ended_at = self.session.execute(select(database_now())).scalar_one()
        self.session.flush()
        count_at_commit(self.session, ATTEMPTS_ENDED.labels(state, cause or "none"))
