"""One job, once its doorbell rings: claim -> fetch -> train -> publish -> finish."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sgg_core.catalogue import Catalogue
from sgg_core.errors import CheckpointError, SggError
from sgg_core.reporting import Finished, Stopped
from sgg_core.spec import TrainingSpec
from sgg_store import ids
from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.errors import LeaseLostError, StoreError
from sgg_store.jobs import Jobs
from sgg_store.leases import Claim, Lease, Leases
from sgg_store.metrics import Metrics
from sgg_store.objects import ObjectStore
from sgg_store.records import CheckpointRecord, FileRecord
from sgg_store.retries import Cause
from worker.checkpoint_transfer import download_checkpoint
from worker.endings import Cancellation, Ending, Return, Success, ending_of
from worker.errors import StopTimeoutError, TrainingFailedError, WorkerError
from worker.follow import TrainingFollower
from worker.lease_keeper import LeaseKeeper
from worker.messages import InputFile, Train
from worker.publish import publish
from worker.reporter import JobReporter
from worker.scratch import Scratch
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

_log = logging.getLogger(__name__)


class JobRunner:
    """Runs jobs one after the other in the supervisor's trainer."""

    def __init__(
        self, settings: WorkerSettings, database: Database, objects: ObjectStore, supervisor: Supervisor, owner: str
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._supervisor = supervisor
        self._owner = owner
        self._scratch = Scratch(settings.scratch_dir)
        self._draining = threading.Event()

    def run(self, job_id: str) -> None:
        """Claim the job and see it through; what goes wrong with it is written to its row.

        Does nothing for a job that is not queued, unknown, or another worker's. Raises StoreError if it cannot claim.
        """
        if self._draining.is_set():
            return
        with self._database.begin() as session:
            claim = Leases(session, self._settings.lease_seconds).claim(job_id, self._owner)
        if claim is None:
            _log.info("nothing to do for %s: it is not queued", job_id)
            return
        lease = claim.lease
        _log.info("attempt %d of %s begins", lease.attempt, job_id)
        with LeaseKeeper(self._database, lease, self._settings) as keeper, self._scratch.attempt(lease) as directory:
            ending = self._attempt(claim, keeper, directory)
            if ending is not None:
                self._finish(lease, ending)

    def drain(self) -> None:
        """Take no more jobs, and give the running one back after a checkpoint."""
        self._draining.set()

    def close(self) -> None:
        """Remove the scratch directory."""
        self._scratch.close()

    def _attempt(self, claim: Claim, keeper: LeaseKeeper, directory: Path) -> Ending | None:
        try:
            outcome = self._train(claim, keeper, directory)
            if isinstance(outcome, Finished):
                return self._publish(claim, keeper, outcome, directory)
            cancelled = outcome.reason == "cancel"
        except StopTimeoutError:
            cancelled = keeper.cancel_requested
        except Exception as error:
            expected = isinstance(error, SggError | StoreError | WorkerError)
            message = "attempt %d of %s: %s"
            _log.warning(message, claim.lease.attempt, claim.lease.job_id, error, exc_info=None if expected else error)
            return ending_of(error)
        return Cancellation() if cancelled else Return(Cause.PREEMPTED, "the worker was told to stop")

    def _train(self, claim: Claim, keeper: LeaseKeeper, directory: Path) -> Finished | Stopped:
        """Train from the newest sound checkpoint on; one that the trainer refuses is set aside like a damaged one."""
        with self._database.read() as session:
            told_step = Jobs(session).get(claim.lease.project_id, claim.lease.job_id).step
        reporter = JobReporter(keeper, claim.lease, told_step, self._settings.flush_seconds)
        command = self._command(claim, directory)
        checkpoint = claim.checkpoint
        while True:
            checkpoint, resume_from = self._fetch_checkpoint(claim.lease, checkpoint, keeper, directory / "resume")
            command = command.model_copy(update={"resume_from": resume_from})
            try:
                with self._supervisor.training(command) as run, keeper.ending(run.kill):
                    follower = TrainingFollower(self._settings, self._objects, claim.lease, keeper, reporter)
                    return follower.follow(run, self._draining)
            except TrainingFailedError as error:
                if error.code != CheckpointError.code or checkpoint is None:
                    raise
                _log.warning("%s refuses the checkpoint of step %d: %s", claim.lease.job_id, checkpoint.step, error)
                checkpoint = self._set_aside(claim.lease, checkpoint, keeper)

    def _command(self, claim: Claim, directory: Path) -> Train:
        validation = claim.validation_file
        return Train(
            run=0,
            spec=TrainingSpec.model_validate(claim.spec),
            base_model=Catalogue.load(self._settings.data_dir).get(claim.base_model),
            training=self._fetch(claim.training_file, directory),
            validation=self._fetch(validation, directory) if validation else None,
            sources=tuple(self._fetch(file, directory) for file in claim.source_files),
            output=directory / "output",
            checkpoints=directory / "checkpoints",
        )

    def _fetch(self, file: FileRecord, directory: Path) -> InputFile:
        path = directory / file.id
        if not path.exists():
            self._objects.download(file.object_key, path)
        return InputFile(path=path, filename=file.filename)

    def _fetch_checkpoint(
        self, lease: Lease, checkpoint: CheckpointRecord | None, keeper: LeaseKeeper, directory: Path
    ) -> tuple[CheckpointRecord | None, Path | None]:
        """Download the checkpoint, or the newest older one whose bytes are what was stored; none begins anew."""
        while checkpoint is not None:
            try:
                return checkpoint, download_checkpoint(self._objects, checkpoint, directory)
            except CheckpointError as error:
                _log.warning("%s: %s Falling back.", lease.job_id, error)
                checkpoint = self._set_aside(lease, checkpoint, keeper)
        return None, None

    def _set_aside(self, lease: Lease, checkpoint: CheckpointRecord, keeper: LeaseKeeper) -> CheckpointRecord | None:
        return keeper.write(lambda session: Checkpoints(session).mark_damaged(lease, checkpoint.id))

    def _publish(self, claim: Claim, keeper: LeaseKeeper, outcome: Finished, directory: Path) -> Success:
        lease = claim.lease
        with self._database.read() as session:
            metrics = Metrics(session).since(lease.job_id)
        keeper.progress()
        files = publish(self._objects, lease, metrics, Path(outcome.directory), directory)
        keeper.check()
        name = ids.fine_tuned_model_name(claim.base_model, lease.project_id, claim.suffix, lease.job_id)
        return Success(name, outcome.trained_tokens, files)

    def _finish(self, lease: Lease, ending: Ending) -> None:
        """Write the ending; while the database is away, try again for as long as the lease can last."""
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                with self._database.begin() as session:
                    ending.write(session, lease)
                _log.info("attempt %d of %s ended: %s", lease.attempt, lease.job_id, type(ending).__name__)
                return
            except LeaseLostError as error:
                _log.warning("%s Its ending is not written.", error)
                return
            except StoreError as error:
                _log.warning("the ending of %s cannot be written yet: %s", lease.job_id, error)
                if time.monotonic() > deadline:
                    return
            time.sleep(0.5)
