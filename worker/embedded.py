"""The worker inside `sgg serve`: same parts as a worker of its own, in threads, with an in-memory doorbell."""

from __future__ import annotations

import socket

from sgg_store.database import Database
from sgg_store.doorbells import Doorbells
from sgg_store.leases import Leases
from sgg_store.objects import ObjectStore
from sgg_store.queue import ring
from sgg_store.settings import StoreSettings
from worker.app import Worker, require_trainer
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor


class EmbeddedWorker:
    """A running embedded worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def ring(self, job_id: str) -> None:
        """Tell the worker that a job may be waiting."""
        ring(self._worker.celery, job_id)

    @property
    def trainer_pid(self) -> int | None:
        """Process id of the trainer child."""
        return self._worker.supervisor.pid

    @property
    def predictor_pid(self) -> int | None:
        """Process id of the predictor child, while there is one."""
        return self._worker.trials.predictor_pid if self._worker.trials else None

    def dead_parts(self) -> list[str]:
        """Name the threads that should run and do not."""
        return self._worker.dead_parts()

    def stop(self) -> None:
        """Give a running job back after a checkpoint, then end all threads and the trainer, within seconds."""
        self._worker.stop()


def start_embedded(
    settings: StoreSettings, database: Database, objects: ObjectStore, supervisor: Supervisor | None = None
) -> EmbeddedWorker:
    """Start the worker of a data directory that the caller has locked, so that it is the only one.

    Jobs that the last process left running are queued again at once, and every queued job's doorbell rings: the
    in-memory broker has forgotten them. Raises TrainerNotInstalledError.
    """
    require_trainer()
    own = WorkerSettings.extending(settings)
    owner = f"embedded:{socket.gethostname()}:{own.data_dir}"
    with database.begin() as session:
        Leases(session).expire_owned_by(owner)
        Doorbells(session).ring_all_again()
    worker = Worker(own, database, objects, owner, supervisor)
    worker.start()
    return EmbeddedWorker(worker)
