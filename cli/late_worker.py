"""Starts the embedded worker beside a server that is already answering, so that its imports delay no request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.embedded import EmbeddedWorker


class LateWorker:
    """A worker that `make` brings up in a thread. Jobs that come before it is up are found by its dispatcher."""

    def __init__(self, make: Callable[[], EmbeddedWorker], on_failure: Callable[[], None]) -> None:
        self._make = make
        self._on_failure = on_failure
        self._worker: EmbeddedWorker | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._bring_up, name="worker-start")

    def start(self) -> None:
        """Begin; returns at once. `on_failure` is called from the thread if the worker cannot start."""
        self._thread.start()

    def ring(self, job_id: str) -> None:
        """Tell the worker that a job may be waiting."""
        if self._worker is not None:
            self._worker.ring(job_id)

    def problem(self) -> str | None:
        """Say in one sentence why no job would be trained now; None if one would be."""
        if self._error is not None:
            return "It could not start, and the server is ending; its last words say why."
        if self._worker is None:
            return "It is starting; jobs wait in the queue until it is up."
        dead = self._worker.dead_parts()
        return f"Its {' and '.join(dead)} stopped; restart the server." if dead else None

    def stop(self) -> None:
        """Wait until the worker is up, then stop it. Raises what kept it from starting."""
        if self._thread.ident is None:
            return
        self._thread.join()
        if self._worker is not None:
            self._worker.stop()
        if self._error is not None:
            raise self._error

    def _bring_up(self) -> None:
        try:
            self._worker = self._make()
        except Exception as error:  # whatever it is, it must end the process and not only this thread
            self._error = error
            self._on_failure()
