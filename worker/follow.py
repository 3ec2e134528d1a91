"""Listens to one training until its end: figures and checkpoints go up to the store, wishes go down to the trainer."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from sgg_core.reporting import CheckpointSaved, Control, Finished, Started, StepMetrics, Stopped, checkpoint_name
from sgg_core.spec import TrainingSpec
from sgg_store.attempts import Lease
from sgg_store.cleaning import delete_objects
from sgg_store.objects import ObjectStore
from worker.checkpoint_transfer import upload_checkpoint
from worker.company import Member
from worker.errors import OutOfTimeError, StopTimeoutError, TrainerDiedError, TrainingFailedError, UnsharedError
from worker.instruments import STEP_SECONDS, measure_gpu
from worker.lease_keeper import LeaseKeeper
from worker.messages import Alive, Unshared
from worker.reporter import JobReporter
from worker.settings import WorkerSettings
from worker.supervisor import TrainerRun

LISTEN_SECONDS = 0.05


class TrainingFollower:
    """Stands between the trainer and the store for the length of one training."""

    def __init__(
        self,
        settings: WorkerSettings,
        objects: ObjectStore,
        lease: Lease,
        keeper: LeaseKeeper,
        reporter: JobReporter,
        member: Member,
        spec: TrainingSpec,
        ends_at: float,
    ) -> None:
        self._ends_at = ends_at
        self._settings = settings
        self._objects = objects
        self._lease = lease
        self._keeper = keeper
        self._reporter = reporter
        self._member = member
        self._spec = spec
        self._wish: Control = "continue"
        self._wished_at = 0.0

    def follow(self, run: TrainerRun, draining: threading.Event) -> Finished | Stopped:
        """Serve the training until its last message; `draining` or the caller's wish tells it to stop.

        Raises TrainingFailedError, TrainerDiedError, StopTimeoutError, OutOfTimeError, UnsharedError, and what ends an
        attempt (`LeaseKeeper.check`).
        """
        while True:
            self._keeper.check()
            if time.monotonic() > self._ends_at:
                self._reporter.flush()
                raise OutOfTimeError(self._settings.max_job_seconds)
            self._steer(run, draining)
            try:
                message = run.receive(LISTEN_SECONDS)
            except (TrainerDiedError, TrainingFailedError):
                self._keeper.check()  # if the keeper killed it, the keeper's reason counts
                self._reporter.flush()
                raise
            if message is None:
                self._reporter.flush_if_due()
                continue
            self._keeper.progress(message.step if isinstance(message, StepMetrics) else None)
            if isinstance(message, StepMetrics):
                STEP_SECONDS.labels(self._spec.base_model).observe(message.seconds)
            if isinstance(message, CheckpointSaved):
                self._upload(message)
            elif isinstance(message, Finished | Stopped):
                self._reporter.flush()
                return message
            elif isinstance(message, Alive):
                measure_gpu(message.gpu_memory)
                total = message.gpu_memory.total if message.gpu_memory else None
                self._member.measure(message.peak_bytes, total, message.beside_bytes)
            elif isinstance(message, Unshared):
                self._member.keep_apart()
                if message.waits:
                    raise UnsharedError
            else:
                if isinstance(message, Started) and message.memory is not None:
                    self._member.weigh(message.memory)
                self._reporter.take(message)

    def _steer(self, run: TrainerRun, draining: threading.Event) -> None:
        """Pass a new wish on. A pause may take as long as a step does, since what it is for is the exact state."""
        now = time.monotonic()
        wish: Control = self._keeper.wish or "continue"
        if draining.is_set() and wish != "cancel":
            wish = "drain"
        if wish != self._wish:
            run.steer(wish)
            self._wish, self._wished_at = wish, now
        elif wish in ("cancel", "drain") and now - self._wished_at > self._settings.stop_seconds:
            raise StopTimeoutError(f"the trainer did not stop within {self._settings.stop_seconds:g} s")

    def _upload(self, saved: CheckpointSaved) -> None:
        directory = Path(saved.directory)
        name = checkpoint_name(saved.step, saved.compared)
        prefix, manifest = upload_checkpoint(self._objects, self._lease, name, directory)
        keep, most = self._spec.checkpoint, self._settings.max_job_checkpoints
        dropped = self._reporter.checkpoint(saved, prefix, manifest, keep, most)
        delete_objects(self._objects, (checkpoint.object_prefix for checkpoint in dropped))
        shutil.rmtree(directory)
