"""Listens to one training until its end: figures and checkpoints go up to the store, wishes go down to the trainer."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from sgg_core.reporting import CheckpointSaved, Finished, StepMetrics, Stopped
from sgg_store.attempts import Lease
from sgg_store.objects import ObjectStore
from worker.checkpoint_transfer import upload_checkpoint
from worker.errors import StopTimeoutError, TrainerDiedError, TrainingFailedError
from worker.lease_keeper import LeaseKeeper
from worker.messages import Alive
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
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._lease = lease
        self._keeper = keeper
        self._reporter = reporter
        self._told_to_stop_at: float | None = None
        self._uploaded_step = 0

    def follow(self, run: TrainerRun, draining: threading.Event) -> Finished | Stopped:
        """Serve the training until its last message; `draining` or a cancellation tells it to stop.

        Raises TrainingFailedError, TrainerDiedError, StopTimeoutError, and what ends an attempt (`LeaseKeeper.check`).
        """
        while True:
            self._keeper.check()
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
            if isinstance(message, CheckpointSaved):
                self._upload(message)
            elif isinstance(message, Finished | Stopped):
                self._reporter.flush()
                return message
            elif not isinstance(message, Alive):
                self._reporter.take(message)

    def _steer(self, run: TrainerRun, draining: threading.Event) -> None:
        now = time.monotonic()
        if self._told_to_stop_at is None:
            if self._keeper.cancel_requested:
                run.steer("cancel")
            elif draining.is_set():
                run.steer("drain")
            else:
                return
            self._told_to_stop_at = now
        elif now - self._told_to_stop_at > self._settings.stop_seconds:
            raise StopTimeoutError(f"the trainer did not stop within {self._settings.stop_seconds:g} s")

    def _upload(self, saved: CheckpointSaved) -> None:
        directory = Path(saved.directory)
        if saved.step != self._uploaded_step:  # a run that is told to stop right after a checkpoint saves it again
            prefix, manifest = upload_checkpoint(self._objects, self._lease, saved.step, directory)
            self._reporter.checkpoint(saved, prefix, manifest)
            self._uploaded_step = saved.step
        shutil.rmtree(directory)
