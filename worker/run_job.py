"""One job, once its doorbell rings: claim -> fetch -> train -> publish -> finish."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.trace import SpanKind
from structlog.contextvars import bound_contextvars, get_contextvars

from sgg_core.catalogue import Catalogue
from sgg_core.errors import CheckpointError, OutOfMemoryError, SggError
from sgg_core.report import REPORT, TrainingReport
from sgg_core.reporting import Finished, Stopped
from sgg_core.spec import TrainingSpec
from sgg_store.attempts import Lease
from sgg_store.checkpoints import DAMAGED, Checkpoints
from sgg_store.database import Database
from sgg_store.errors import LeaseLostError, StoreError
from sgg_store.failpoints import Failpoint, reach
from sgg_store.leases import Claim, Leases
from sgg_store.logs import get_logger
from sgg_store.metrics import Metrics
from sgg_store.objects import ObjectStore
from sgg_store.records import CheckpointRecord, FileRecord
from sgg_store.tracing import incoming, tracer
from sgg_store.turns import Turns
from worker.attempt_trail import describe_attempt, log_ids
from worker.capacity import Capacity
from worker.checkpoint_transfer import download_checkpoint
from worker.company import Company, Member
from worker.endings import ENDINGS_OF_STOPS, Ending, Failure, Return, Success, ending_of
from worker.errors import (
    ChangedFileError,
    CrowdedError,
    DisturbedError,
    StopTimeoutError,
    TrainerDiedError,
    TrainingFailedError,
    WorkerError,
)
from worker.fetching import fetched_whole
from worker.follow import TrainingFollower
from worker.lease_keeper import LeaseKeeper
from worker.messages import INTERNAL_ERROR, InputFile, Train
from worker.publish import publish
from worker.reporter import JobReporter
from worker.scratch import Scratch
from worker.settings import WorkerSettings
from worker.start_transfer import fetch_start
from worker.supervisor import Supervisor, TrainerRun

_log = get_logger(__name__)

FOREIGN = "it was written by another version, or with another base model"


class JobRunner:
    """Runs jobs in the supervisor's trainer; as many at the same time as threads call `run` and the settings allow.

    `predicts` tells whether the worker has a predictor now, which takes memory, too.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        objects: ObjectStore,
        supervisor: Supervisor,
        owner: str,
        predicts: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._supervisor = supervisor
        self._owner = owner
        self._predicts = predicts
        self._scratch = Scratch(settings.scratch_dir)
        self._company = Company(settings.jobs_at_once, Capacity(settings.pack_memory_bytes or None))
        self._draining = threading.Event()

    def run(self, job_id: str) -> None:
        """Take the job whose turn it is, see it through, and go on while there are jobs to take.

        `job_id` is the one that the doorbell named: which one is taken, the queue decides, see `sgg_store.turns`.
        It does not go on after an attempt that was cut short: what is wrong may be this worker. What goes wrong with a
        job is written to its row. Does nothing if no job may run now. Raises StoreError if it cannot claim.
        """
        while not self._draining.is_set():
            claimed = self._claim()
            if claimed is None:
                _log.info("nothing to do: no job may run now, or not beside those that do", doorbell=job_id)
                return
            claim, member = claimed
            with member:
                if not self._see_through(claim, member):
                    return

    def drain(self) -> None:
        """Take no more jobs, and give the running one back after a checkpoint."""
        self._draining.set()

    def close(self) -> None:
        """Remove the scratch directory."""
        self._scratch.close()

    def _claim(self) -> tuple[Claim, Member] | None:
        with self._company.door:
            while True:
                with self._database.begin() as session:
                    chosen = Turns(session, self._settings.quotas).take(self._company.suits)
                    if chosen is None:
                        return None
                    claim = Leases(session, self._settings.lease_seconds).claim(chosen.job_id, self._owner)
                if claim is not None:  # else its files are gone, it has failed, and the next one is due
                    return claim, self._company.enter(chosen)

    def _see_through(self, claim: Claim, member: Member) -> bool:
        """Run an attempt to its end. Says whether its job ended or paused with it."""
        lease = claim.lease
        with (
            bound_contextvars(**log_ids(claim)),
            tracer.start_as_current_span("attempt", incoming(claim.origin), SpanKind.CONSUMER) as span,
            LeaseKeeper(self._database, lease, self._settings) as keeper,
        ):
            _log.info("the attempt begins")
            ending = self._attempt(claim, member, keeper)
            describe_attempt(span, claim, ending)
            return ending is not None and self._finish(lease, ending) and not isinstance(ending, Return)

    def _attempt(self, claim: Claim, member: Member, keeper: LeaseKeeper) -> Ending | None:
        try:
            reach(Failpoint.JOB_CLAIMED)
            with self._scratch.attempt(claim.lease) as directory:
                outcome = self._train(claim, member, keeper, directory)
                if isinstance(outcome, Finished):
                    return self._publish(claim, keeper, outcome, directory)
                return ENDINGS_OF_STOPS[outcome.reason]
        except StopTimeoutError:
            return ENDINGS_OF_STOPS["cancel" if keeper.wish == "cancel" else "drain"]
        except Exception as error:
            expected = isinstance(error, SggError | StoreError | WorkerError)
            _log.warning("the attempt met an error", error=str(error), exc_info=None if expected else error)
            return ending_of(error)

    def _train(self, claim: Claim, member: Member, keeper: LeaseKeeper, directory: Path) -> Finished | Stopped:
        """Train from the newest sound checkpoint on; one that the trainer refuses is set aside like a damaged one."""
        with self._database.read() as session:
            told_steps = Metrics(session).told_steps(claim.lease.job_id)
        reporter = JobReporter(keeper, claim.lease, told_steps, self._settings.flush_seconds)
        command = self._command(claim, directory, member)
        checkpoint = claim.checkpoint
        ends_at = time.monotonic() + self._settings.max_job_seconds - claim.spent_seconds
        while True:
            checkpoint, resume_from = self._fetch_checkpoint(claim.lease, checkpoint, keeper, directory / "resume")
            command = command.model_copy(update={"resume_from": resume_from})
            try:
                with self._supervisor.training(command) as run, keeper.ending(run.abandon):
                    follower = TrainingFollower(
                        self._settings,
                        self._objects,
                        claim.lease,
                        keeper,
                        reporter,
                        member,
                        command.spec,
                        ends_at,
                    )
                    return follower.follow(run, self._draining)
            except TrainerDiedError as error:
                if error.out_of_memory and self._is_crowded(run, member, command):
                    raise CrowdedError(str(error)) from error
                raise
            except TrainingFailedError as error:
                if error.code == OutOfMemoryError.code and self._is_crowded(run, member, command):
                    raise CrowdedError(error.message) from error
                if error.code == INTERNAL_ERROR and run.had_company:
                    raise DisturbedError(error.message) from error
                if error.code != CheckpointError.code or checkpoint is None:
                    raise
                _log.warning("the trainer refuses a checkpoint", step=checkpoint.step, error=str(error))
                checkpoint = self._set_aside(claim.lease, checkpoint, keeper, FOREIGN)

    def _is_crowded(self, run: TrainerRun, member: Member, command: Train) -> bool:
        """Whether memory may have been short because of others, or of replicas; for a predictor's sake but once."""
        predicts = self._predicts() and not member.crashed
        return run.shares_memory or predicts or _may_take_less(command)

    def _command(self, claim: Claim, directory: Path, member: Member) -> Train:
        validation = claim.validation_file
        return Train(
            run=0,
            spec=TrainingSpec.model_validate(claim.spec),
            base_model=Catalogue.load(self._settings.catalogue_dir).get(claim.base_model),
            training=self._fetch(claim.training_file, directory),
            validation=self._fetch(validation, directory) if validation else None,
            sources=tuple(self._fetch(file, directory) for file in claim.source_files),
            retention=self._fetch(claim.retention_file, directory) if claim.retention_file else None,
            start_from=fetch_start(self._objects, claim, directory / "start"),
            output=directory / "output",
            checkpoints=directory / "checkpoints",
            shared=member.shared,
            memory_bytes=member.room,
            keep_bytes=0 if member.crashed else self._settings.base_model_memory_bytes,
            log_context=get_contextvars(),
        )

    def _fetch(self, file: FileRecord, directory: Path) -> InputFile:
        path = directory / file.id
        if not path.exists() and not fetched_whole(self._objects, file.object_key, path, file.sha256):
            raise ChangedFileError(file.filename)
        return InputFile(path=path, filename=file.filename)

    def _fetch_checkpoint(
        self, lease: Lease, checkpoint: CheckpointRecord | None, keeper: LeaseKeeper, directory: Path
    ) -> tuple[CheckpointRecord | None, Path | None]:
        """Download the checkpoint, or the newest older one whose bytes are what was stored; none begins anew."""
        while checkpoint is not None:
            try:
                return checkpoint, download_checkpoint(self._objects, checkpoint, directory)
            except CheckpointError as error:
                _log.warning("a checkpoint is set aside for an older one", step=checkpoint.step, error=str(error))
                checkpoint = self._set_aside(lease, checkpoint, keeper)
        return None, None

    def _set_aside(
        self, lease: Lease, checkpoint: CheckpointRecord, keeper: LeaseKeeper, reason: str = DAMAGED
    ) -> CheckpointRecord | None:
        return keeper.write(lambda session: Checkpoints(session).mark_damaged(lease, checkpoint.id, reason))

    def _publish(self, claim: Claim, keeper: LeaseKeeper, outcome: Finished, directory: Path) -> Success:
        lease = claim.lease
        with self._database.read() as session:
            metrics = Metrics(session).since(lease.job_id)
        keeper.progress()
        files = publish(self._objects, lease, metrics, Path(outcome.directory), directory)
        reach(Failpoint.RESULT_STORED)
        keeper.check()
        report = TrainingReport.model_validate_json((Path(outcome.directory) / REPORT).read_bytes())
        final = report.final.model_dump(exclude_none=True)
        return Success(claim.model_name, outcome.trained_tokens, files, final, self._settings.result_ttl_seconds)

    def _finish(self, lease: Lease, ending: Ending) -> bool:
        """Write the ending; while the database is away, try again for as long as the lease can last.

        One that cannot be written by a defect is followed by a failure that says so. Says whether it is written.
        """
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                with self._database.begin() as session:
                    ending.write(session, lease)
                _log.info("the attempt ended", ending=type(ending).__name__)
                return True
            except LeaseLostError as error:
                _log.warning("the lease is lost, so the ending is not written", error=str(error))
                return False
            except StoreError as error:
                _log.warning("the ending cannot be written yet", error=str(error))
                if time.monotonic() > deadline:
                    return False
            except Exception as error:
                _log.exception("the ending cannot be written", ending=type(ending).__name__)
                instead = None if isinstance(ending, Failure) else ending_of(error)
                if instead is None:
                    return False
                ending = instead
                continue
            time.sleep(0.5)


def _may_take_less(command: Train) -> bool:
    """Whether several replicas may have been trained at once, which is not tried again once memory has been short."""
    return command.memory_bytes > 0 and command.spec.optimization.replicas > 1 and command.spec.lonely is None
