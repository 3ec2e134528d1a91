"""A worker: Celery consumer, dispatcher, reaper, trials and children, started and stopped together."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import threading
from collections.abc import Callable

from celery import Celery

from sgg_store.cleaning import Cleaner
from sgg_store.database import Database
from sgg_store.logs import get_logger
from sgg_store.object_probe import open_probed_object_store
from sgg_store.objects import ObjectStore
from sgg_store.queue import make_celery
from sgg_store.reaper import make_reaper
from sgg_store.settings import StoreSettings
from worker.cleaner import make_cleaner
from worker.consumer import Consumer
from worker.dispatcher import make_dispatcher
from worker.errors import PartsEndedError, TrainerNotInstalledError
from worker.presence import PresenceBeat
from worker.run_job import JobRunner
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.tasks import register_tasks
from worker.trial_runner import TrialRunner
from worker.warm import base_model_to_warm

_log = get_logger(__name__)

WATCH_SECONDS = 5.0
"""How often a worker looks whether all its parts run."""


class Worker:
    """One trainer, and everything that brings jobs to it. Start and stop it once, from one thread.

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
        self.trials = TrialRunner(settings, database, objects) if settings.trial_memory_bytes else None
        self._runner = JobRunner(settings, database, objects, self.supervisor, owner, self._predicts)
        register_tasks(self.celery, self._runner)
        self._consumer = Consumer(self.celery, settings.jobs_at_once)
        self._dispatcher = make_dispatcher(self.celery, database, settings.dispatch_seconds, settings.quotas)
        self._reaper = make_reaper(database, settings.reap_seconds)
        self._cleaner = make_cleaner(Cleaner(database, objects, settings), settings.clean_seconds)
        self._presence = PresenceBeat(database, owner, answers_trials=self.trials is not None)

    def dead_parts(self) -> list[str]:
        """Name the threads that do not run; all of them before the start and after the end."""
        parts = {
            "consumer": self._consumer.alive,
            "dispatcher": self._dispatcher.alive,
            "reaper": self._reaper.alive,
            "cleaner": self._cleaner.alive,
            "presence": self._presence.alive,
        }
        if self.trials is not None:
            parts["trials"] = self.trials.alive
        return [name for name, alive in parts.items() if not alive]

    def start(self) -> None:
        """Start everything; returns before the trainer has warmed up, which is when the first job will start faster."""
        self.supervisor.start(base_model_to_warm(self.settings, self.database))
        self._presence.start()
        self._consumer.start()
        self._reaper.start()
        self._cleaner.start()
        self._dispatcher.start()
        if self.trials is not None:
            self.trials.start()
        _log.info("the worker started")

    def stop(self) -> None:
        """Give a running job back after a checkpoint, then end everything; takes at most about `stop_seconds`."""
        self._runner.drain()
        self._presence.drain()
        self._dispatcher.stop()
        self._reaper.stop()
        self._cleaner.stop()
        if self.trials is not None:
            self.trials.stop()
        self._consumer.stop()
        self.supervisor.stop()
        self._runner.close()
        self._presence.stop()
        _log.info("the worker stopped")

    def run(self, on_started: Callable[[], None]) -> None:
        """Work until SIGTERM or SIGINT, then stop. For a process that does nothing else.

        Raises PartsEndedError, after it has stopped, if a part ended by itself: only a new process has it again.
        """
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        self.start()
        on_started()
        dead: list[str] = []
        while not dead and not ended.wait(WATCH_SECONDS):
            dead = self.dead_parts()
        self.stop()
        if dead:
            raise PartsEndedError(
                f"The worker's {' and '.join(dead)} stopped unexpectedly; its log says why. Start the worker again."
            )

    def _predicts(self) -> bool:
        return self.trials is not None and self.trials.predictor_pid is not None


def create_worker(settings: StoreSettings | None = None) -> Worker:
    """A worker on the database, broker and object store of the settings; what only workers need is in the environment.

    Raises TrainerNotInstalledError, SchemaOutdatedError if the tables are not those of this version, and
    UnsafeObjectStoreError if the store does not keep its promises.
    """
    require_trainer()
    own = WorkerSettings.extending(settings or StoreSettings())
    database = Database(own.database_url)
    database.require_current_schema()
    owner = f"{own.worker_name}:{os.getpid()}:{secrets.token_hex(4)}"
    return Worker(own, database, open_probed_object_store(own.object_store_url), owner)


def require_trainer() -> None:
    """Raise TrainerNotInstalledError unless the packages that train are installed. Imports none of them."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainerNotInstalledError(
            f"This environment cannot train: {', '.join(missing)} missing. "
            "From a checkout, run `pip install '.[train]'`."
        )
