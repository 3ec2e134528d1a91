"""Celery's consumer in a thread, made anew whenever it ends by itself."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from typing import Any

from celery import Celery, bootsteps
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker import WorkController
from celery.worker import state as celery_state

from sgg_store.logs import get_logger

_log = get_logger(__name__)
_RESTART_SECONDS = 0.5
_alone = threading.Lock()  # of the consumer that runs in this process


class _Look(bootsteps.StartStopStep):
    """Lets an idle loop look up often whether the task has ended and the next doorbell may be taken.

    Nothing else tells the loop: without this, a doorbell that rang meanwhile waits for up to a second.
    """

    requires = ("celery.worker.components:Hub",)
    SECONDS = 0.03

    def include_if(self, parent: Any) -> bool:
        """Only brokers with a loop of events have one that sleeps."""
        return bool(parent.use_eventloop)

    def start(self, parent: Any) -> None:
        """Wake the loop from now on."""
        parent.hub.call_repeatedly(self.SECONDS, lambda: None)


class Consumer:
    """Takes doorbells off the queue, no more than it has tasks for, and runs the application's task for each.

    Celery ends its consumer for good where a message is none of its kind; the thread then makes the next one, so that
    nobody who can write to the broker can make a worker deaf.
    """

    def __init__(self, app: Celery, tasks_at_once: int = 1) -> None:
        self._app = app
        self._tasks_at_once = tasks_at_once
        app.steps["worker"].add(_Look)
        self._node_name = f"sgg-{os.getpid()}-{secrets.token_hex(2)}@{socket.gethostname()}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._consume, name="celery", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it was started and not stopped."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to take doorbells.

        Raises RuntimeError while another one runs in this process: an in-memory broker and Celery's registry of tasks
        belong to the process, so one consumer would run the other's jobs beside those that it runs itself.
        """
        if not _alone.acquire(blocking=False):
            raise RuntimeError("A consumer runs in this process already; stop it first.")
        setup_worker_optimizations(self._app, self._node_name)
        self._thread.start()

    def stop(self) -> None:
        """Take no more doorbells, and wait for the task that runs."""
        self._over.set()
        celery_state.should_stop = os.EX_OK  # type: ignore[assignment]  # celery's stubs know only the initial value
        self._thread.join()
        celery_state.should_stop = None
        reset_worker_optimizations(self._app)
        _alone.release()

    def _consume(self) -> None:
        while True:
            self._make_controller().start()
            if self._over.wait(_RESTART_SECONDS):
                return
            _log.error("the consumer of doorbells ended by itself; it is started again")

    def _make_controller(self) -> WorkController:
        return WorkController(
            app=self._app,
            hostname=self._node_name,
            pool="threads",
            concurrency=self._tasks_at_once,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
