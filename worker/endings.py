"""How an attempt can end, what of it is written, and which error leads to which ending."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_core.errors import (
    NO_SPACE,
    DataError,
    DiskFullError,
    HelperLostError,
    OutOfMemoryError,
    RetentionFileError,
    SggError,
    SourceFileError,
    StartingPointError,
    UnknownBaseModelError,
    ValidationFileError,
)
from sgg_store.attempts import Lease, guard
from sgg_store.errors import (
    DatabaseUnavailableError,
    LeaseLostError,
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    StorageFullError,
)
from sgg_store.files import Files
from sgg_store.leases import JobResult, Leases
from sgg_store.records import database_now
from sgg_store.retries import Cause
from worker.errors import (
    ChangedFileError,
    CrowdedError,
    DisturbedError,
    FencedError,
    OutOfTimeError,
    StalledError,
    TrainerDiedError,
    TrainingFailedError,
    UnsharedError,
)
from worker.publish import ResultFile

DISK_FULL = "no space is left on the worker's disk; free some, and the job goes on from its last checkpoint"
DATABASE_AWAY = "the database did not answer; the job goes on from its last checkpoint"
OBJECTS_AWAY = "the object store does not answer; the job goes on from its last checkpoint once it does"
MEMORY_REMEDY = "Lower batch_size, task.max_tokens or lora.rank, or use a smaller base model, and submit the job again."

PARAMS = {
    DataError.code: "training_file",
    ValidationFileError.code: "validation_file",
    SourceFileError.code: "method.sgg.sources",
    RetentionFileError.code: "method.sgg.retention_file",
    StartingPointError.code: "method.sgg.start_from",
    UnknownBaseModelError.code: "model",
}
"""The parameter of the job's request that an error speaks of, by the error's code."""


@dataclass(frozen=True, slots=True)
class Success:
    """The adapter lies in the object store."""

    fine_tuned_model: str
    trained_tokens: int
    files: tuple[ResultFile, ...]
    final_figures: dict[str, float]
    """Losses and accuracies of the run that was kept."""
    kept_seconds: float | None = None
    """How long the files are kept; None keeps them until someone deletes them."""

    def write(self, session: Session, lease: Lease) -> None:
        """Add the result files and end job and attempt."""
        guard(session, lease)
        now = session.execute(select(database_now())).scalar_one()
        expires_at = None if self.kept_seconds is None else now + self.kept_seconds
        for file in self.files:
            Files(session).add(
                file_id=file.file_id,
                project_id=lease.project_id,
                filename=file.filename,
                purpose="fine-tune-results",
                bytes=file.bytes,
                sha256=file.sha256,
                object_key=file.object_key,
                expires_at=expires_at,
            )
        result = JobResult(
            fine_tuned_model=self.fine_tuned_model,
            trained_tokens=self.trained_tokens,
            result_file_ids=tuple(file.file_id for file in self.files),
            final_figures=self.final_figures,
        )
        Leases(session).succeed(lease, result)


@dataclass(frozen=True, slots=True)
class Failure:
    """Another attempt would end the same way."""

    code: str
    message: str
    cause: Cause
    param: str | None = None

    def write(self, session: Session, lease: Lease) -> None:
        """End job and attempt with an error."""
        Leases(session).fail(lease, self.code, self.message, self.cause, param=self.param)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The caller wanted it to end."""

    def write(self, session: Session, lease: Lease) -> None:
        """End job and attempt; the last checkpoint stays."""
        Leases(session).cancelled(lease)


@dataclass(frozen=True, slots=True)
class Pause:
    """The caller wants it to go on later."""

    def write(self, session: Session, lease: Lease) -> None:
        """End the attempt; the last checkpoint holds the exact state."""
        Leases(session).paused(lease)


@dataclass(frozen=True, slots=True)
class Return:
    """Another attempt may fare better: the job goes back to the queue, or fails if the cause's budget is used up."""

    cause: Cause
    detail: str

    def write(self, session: Session, lease: Lease) -> None:
        """End the attempt and queue the job."""
        Leases(session).give_back(lease, self.cause, self.detail)


Ending = Success | Failure | Cancellation | Pause | Return

ENDINGS_OF_STOPS: dict[str, Ending] = {
    "cancel": Cancellation(),
    "pause": Pause(),
    "drain": Return(Cause.PREEMPTED, "the worker was told to stop"),
}
"""The ending of a training that was stopped, by the reason."""


def ending_of(error: Exception) -> Ending | None:
    """The ending that an error leads to. None where nothing may be written, since the job is someone else's now."""
    if isinstance(error, LeaseLostError):
        return None
    if isinstance(error, TrainingFailedError):
        if error.code == DiskFullError.code:
            return Return(Cause.STORAGE, DISK_FULL)
        if error.code == HelperLostError.code:
            return Return(Cause.CRASHED, error.message)
        return Failure(
            error.code, error.message, Cause.USER if error.users_fault else Cause.INTERNAL, PARAMS.get(error.code)
        )
    if isinstance(error, SggError):
        return ending_of(TrainingFailedError(error.code, str(error), error.users_fault))
    if isinstance(error, OutOfTimeError):
        return Failure("time_limit_exceeded", str(error), Cause.USER)
    if isinstance(error, TrainerDiedError) and error.out_of_memory:
        message = f"The machine ran out of memory and killed the trainer. {MEMORY_REMEDY}"
        return Failure(OutOfMemoryError.code, message, Cause.USER)
    if isinstance(error, ObjectNotFoundError | ChangedFileError):
        return Failure(
            "file_not_found", f"{error} Upload the file again and submit the job with its new id.", Cause.USER
        )
    causes: tuple[tuple[type[Exception], Cause], ...] = (
        (TrainerDiedError, Cause.CRASHED),
        (CrowdedError, Cause.CRASHED),
        (DisturbedError, Cause.CRASHED),
        (StalledError, Cause.CRASHED),
        (UnsharedError, Cause.PREEMPTED),
        (FencedError, Cause.DATABASE),
        (DatabaseUnavailableError, Cause.DATABASE),
        (StorageFullError, Cause.STORAGE),
        (ObjectStoreUnavailableError, Cause.STORAGE),
        (OSError, Cause.STORAGE),
    )
    for kind, cause in causes:
        if isinstance(error, kind):
            return Return(cause, _in_words(error))
    message = (
        f"The worker met an unexpected {type(error).__name__}. Tell the administrator; the worker's log says more."
    )
    return Failure("internal_error", message, Cause.INTERNAL)


def _in_words(error: Exception) -> str:
    if isinstance(error, DatabaseUnavailableError):  # it names addresses that are no caller's business
        return DATABASE_AWAY
    if isinstance(error, ObjectStoreUnavailableError):  # so does this one
        return OBJECTS_AWAY
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return DISK_FULL
    return str(error)
