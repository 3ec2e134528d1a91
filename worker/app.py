"""A worker: Celery consumer, dispatcher, reaper and trainer child, started and stopped together."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable

from celery import Celery
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker import WorkController
from celery.worker import state as celery_state

from sgg_store.database import Database
from sgg_store.objects import ObjectStore, open_object_store
from sgg_store.queue import make_celery
from sgg_store.settings import StoreSettings
from worker.dispatcher import make_dispatcher
from worker.errors import TrainerNotInstalledError
from worker.reaper import make_reaper
from worker.run_job import JobRunner
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.tasks import register_tasks
from worker.warm import base_model_to_warm

_log = logging.getLogger(__name__)


class Worker:
    """One slot for training, and everything that brings jobs to it. Start and stop it once, from one thread.

    Celery looks a task up in the process's last started application, so a process runs one worker at a time.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        objects: ObjectStore,
        owner: str,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.celery: Celery = make_celery(settings)
        self.supervisor = supervisor or Supervisor()
        self._runner = JobRunner(settings, database, objects, self.supervisor, owner)
        register_tasks(self.celery, self._runner)
        self._node_name = f"sgg-{os.getpid()}-{secrets.token_hex(2)}@{socket.gethostname()}"
        self._controller = _make_controller(self.celery, self._node_name)
        self._consumer = threading.Thread(target=self._controller.start, name="celery", daemon=True)
        self._dispatcher = make_dispatcher(self.celery, database, settings.dispatch_seconds)
        self._reaper = make_reaper(database, settings.reap_seconds)

    def dead_parts(self) -> list[str]:
        """Name the threads that do not run; all of them before the start and after the end."""
        parts = {
            "consumer": self._consumer.is_alive(),
            "dispatcher": self._dispatcher.alive,
            "reaper": self._reaper.alive,
        }
        return [name for name, alive in parts.items() if not alive]

    def start(self) -> None:
        """Start everything; returns before the trainer has warmed up, which is when the first job will start faster."""
        setup_worker_optimizations(self.celery, self._node_name)
        self.supervisor.start(base_model_to_warm(self.settings, self.database))
        self._consumer.start()
        self._reaper.start()
        self._dispatcher.start()
        _log.info("worker started")

    def stop(self) -> None:
        """Give a running job back after a checkpoint, then end everything; takes at most about `stop_seconds`."""
        self._runner.drain()
        self._dispatcher.stop()
        self._reaper.stop()
        celery_state.should_stop = os.EX_OK  # type: ignore[assignment]  # celery's stubs know only the initial value
        self._consumer.join()
        celery_state.should_stop = None
        reset_worker_optimizations(self.celery)
        self.supervisor.stop()
        self._runner.close()
        _log.info("worker stopped")

    def run(self, on_started: Callable[[], None]) -> None:
        """Work until SIGTERM or SIGINT, then stop. For a process that does nothing else."""
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        self.start()
        on_started()
        ended.wait()
        self.stop()


def create_worker(settings: StoreSettings | None = None) -> Worker:
    """A worker on the database, broker and object store of the settings; what only workers need is in the environment.

    Raises TrainerNotInstalledError, and SchemaOutdatedError if the tables are not those of this version.
    """
    require_trainer()
    own = WorkerSettings.extending(settings or StoreSettings())
    database = Database(own.database_url)
    database.require_current_schema()
    owner = f"{own.worker_name}:{os.getpid()}:{secrets.token_hex(4)}"
    return Worker(own, database, open_object_store(own.object_store_url), owner)


def require_trainer() -> None:
    """Raise TrainerNotInstalledError unless the packages that train are installed. Imports none of them."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainerNotInstalledError(
            f"This environment cannot train: {', '.join(missing)} missing. Run `pip install 'sgg[train]'`."
        )


def _make_controller(app: Celery, node_name: str) -> WorkController:
    return WorkController(
        app=app,
        hostname=node_name,
        pool="threads",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
