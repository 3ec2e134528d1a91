import errno

import pytest

from sgg_core.errors import (
    BaseModelUnavailableError,
    DataError,
    Problem,
    RetentionFileError,
    SourceFileError,
    UnknownBaseModelError,
    ValidationFileError,
)
from sgg_store.database import Database
from sgg_store.errors import (
    DatabaseUnavailableError,
    LeaseLostError,
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    StorageFullError,
)
from sgg_store.leases import Leases
from sgg_store.records import FileRecord, JobRecord
from sgg_store.retries import Cause
from sgg_store.testing import add_job
from worker.endings import Failure, Return, Success, ending_of
from worker.errors import (
    ChangedFileError,
    CrowdedError,
    DisturbedError,
    FencedError,
    StalledError,
    TrainerDiedError,
    TrainingFailedError,
    UnsharedError,
)
from worker.publish import ResultFile

BAD = (Problem(1, None, "Bad.", "Mend."),)


@pytest.mark.parametrize("kept_seconds", [None, 60.0])
def test_results_are_kept_as_long_as_they_are_to_be(sqlite_url: str, kept_seconds: float | None) -> None:
    database = Database(sqlite_url)
    with database.begin() as session:
        claim = Leases(session).claim(add_job(session).id, "worker")
        assert claim is not None
        result = ResultFile(file_id="file-1", filename="a", bytes=1, sha256="0" * 64, object_key="jobs/1/a")
        Success("ft:x", 1, (result,), {"train_loss": 0.5}, kept_seconds).write(session, claim.lease)
        expires_at = session.get_one(FileRecord, "file-1").expires_at
        assert session.get_one(JobRecord, claim.lease.job_id).final_figures == {"train_loss": 0.5}
    if kept_seconds is None:
        assert expires_at is None
    else:
        assert expires_at is not None and abs(expires_at - database.now() - kept_seconds) < 30
    database.dispose()


def test_a_lost_lease_ends_in_nothing_that_is_written() -> None:
    assert ending_of(LeaseLostError("ftjob-1", 1)) is None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TrainerDiedError(-9, False, ""), Cause.CRASHED),
        (TrainerDiedError(1, False, "ImportError: torch"), Cause.CRASHED),
        (StalledError("the trainer made no progress"), Cause.CRASHED),
        (CrowdedError("no memory"), Cause.CRASHED),
        (DisturbedError("oh"), Cause.CRASHED),
        (UnsharedError(), Cause.PREEMPTED),
        (TrainingFailedError("helper_lost", "A process of the team ended with signal 9.", False), Cause.CRASHED),
        (FencedError("the database did not answer"), Cause.DATABASE),
        (DatabaseUnavailableError("No connection to 10.0.0.1.", "Start it."), Cause.DATABASE),
        (StorageFullError("No space left.", "Free some."), Cause.STORAGE),
        (ObjectStoreUnavailableError("It does not answer.", "Start it."), Cause.STORAGE),
        (OSError(errno.ENOSPC, "No space left on device"), Cause.STORAGE),
        (ConnectionResetError("the object store hung up"), Cause.STORAGE),
        (TrainingFailedError("disk_full", "No space left while writing. Free disk space.", False), Cause.STORAGE),
    ],
)
def test_what_is_not_the_jobs_fault_is_tried_again(error: Exception, cause: Cause) -> None:
    ending = ending_of(error)
    assert isinstance(ending, Return)
    assert ending.cause is cause
    assert ending.detail and "10.0.0.1" not in ending.detail


@pytest.mark.parametrize(
    ("error", "code", "cause", "param"),
    [
        (TrainingFailedError("training_diverged", "NaN. Lower it.", True), "training_diverged", Cause.USER, None),
        (TrainingFailedError("internal_error", "Oh.", False), "internal_error", Cause.INTERNAL, None),
        (TrainerDiedError(-9, True, ""), "out_of_memory", Cause.USER, None),
        (ObjectNotFoundError("Nothing here."), "file_not_found", Cause.USER, None),
        (ChangedFileError("train.jsonl"), "file_not_found", Cause.USER, None),
        (UnknownBaseModelError("No such."), "model_not_found", Cause.USER, "model"),
        (BaseModelUnavailableError("Gone."), "base_model_unavailable", Cause.INTERNAL, None),
        (DataError("a.jsonl", BAD), "invalid_training_file", Cause.USER, "training_file"),
        (ValidationFileError("a.jsonl", BAD), "invalid_validation_file", Cause.USER, "validation_file"),
        (RetentionFileError("a.jsonl", BAD), "invalid_retention_file", Cause.USER, "method.sgg.retention_file"),
        (SourceFileError("a.jsonl", BAD), "invalid_source_file", Cause.USER, "method.sgg.sources"),
        (ZeroDivisionError("by zero"), "internal_error", Cause.INTERNAL, None),
    ],
)
def test_what_would_happen_again_fails_at_once_with_a_name(
    error: Exception, code: str, cause: Cause, param: str | None
) -> None:
    ending = ending_of(error)
    assert isinstance(ending, Failure)
    assert (ending.code, ending.cause, ending.param) == (code, cause, param)


def test_an_unexpected_error_does_not_show_its_text_to_the_caller() -> None:
    ending = ending_of(ValueError("password=hunter2"))
    assert isinstance(ending, Failure) and "hunter2" not in ending.message


def test_a_full_disk_says_what_to_do() -> None:
    ending = ending_of(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(ending, Return) and "free some" in ending.detail


def test_memory_failures_name_settings_to_lower() -> None:
    ending = ending_of(TrainerDiedError(-9, True, ""))
    assert isinstance(ending, Failure) and "batch_size" in ending.message


def test_a_dead_trainer_tells_signal_and_last_words() -> None:
    assert "signal 11" in str(TrainerDiedError(-11, False, "")) and "exit code 3" in str(TrainerDiedError(3, False, ""))
    assert "out of luck" in str(TrainerDiedError(3, False, "out of luck"))
