"""Keeps an attempt's lease alive while its trainer makes progress, and ends the trainer when the lease is in doubt."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self, TypeVar

from sqlalchemy.orm import Session

from sgg_store.attempts import Lease
from sgg_store.database import Database
from sgg_store.errors import DatabaseUnavailableError, LeaseLostError, StoreError
from sgg_store.leases import Leases
from sgg_store.logs import get_logger
from worker.errors import FencedError, StalledError
from worker.settings import WorkerSettings

_log = get_logger(__name__)
_Result = TypeVar("_Result")

RETRY_SECONDS = 0.5


class LeaseKeeper:
    """Two threads for one attempt: one beats, one fences. A beat may hang in a dead connection, the fence never does.

    Any of three things ends the attempt: the lease was lost, the database did not answer for `self_fence_seconds`, or
    the trainer said nothing for `stall_seconds`. Then the trainer is killed at once, and `check` raises the reason.
    """

    def __init__(self, database: Database, lease: Lease, settings: WorkerSettings) -> None:
        self._database = database
        self._lease = lease
        self._settings = settings
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._reason: Exception | None = None
        self._kill: Callable[[], None] | None = None
        self._renewed_at = self._moved_at = time.monotonic()
        self._step: int | None = None
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(task,), daemon=True)  # keeps the log's ids
            for task in (self._beat, self._fence)
        ]
        self.wish: Literal["cancel", "pause"] | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def ending(self, kill: Callable[[], None]) -> Iterator[None]:
        """Within the block, `kill` is called as soon as the attempt must end."""
        with self._lock:
            self._kill = kill
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._kill = None

    def progress(self, step: int | None = None) -> None:
        """The attempt moves; at `step`, if it is known."""
        self._moved_at = time.monotonic()
        self._step = step if step is not None else self._step

    def check(self) -> None:
        """Raise LeaseLostError, FencedError or StalledError if the attempt has to end."""
        if self._reason is not None:
            raise self._reason

    def write(self, change: Callable[[Session], _Result]) -> _Result:
        """Commit a change that begins with the lease's guard; while the database is away, try again until the fence.

        Raises what `check` raises, and what `change` raises.
        """
        while True:
            self.check()
            try:
                with self._database.begin() as session:
                    result = change(session)
                self.progress()
                return result
            except DatabaseUnavailableError as error:
                _log.warning("a write waits for the database", error=str(error))
                self._over.wait(RETRY_SECONDS)

    def _beat(self) -> None:
        next_beat = time.monotonic() + self._settings.heartbeat_seconds
        while not self._over.wait(min(self._settings.flush_seconds, self._settings.heartbeat_seconds)):
            now = time.monotonic()
            if now - self._moved_at > self._settings.stall_seconds:
                return self._end(StalledError(f"the trainer made no progress for {self._settings.stall_seconds:g} s"))
            try:
                if now >= next_beat:
                    self._renew()
                    next_beat = now + self._settings.heartbeat_seconds
                else:
                    with self._database.read() as session:
                        self.wish = Leases(session).signals(self._lease).wish
            except LeaseLostError as error:
                return self._end(error)
            except StoreError as error:
                _log.warning("a heartbeat failed", error=str(error))
        return None

    def _renew(self) -> None:
        asked_at = time.monotonic()
        with self._database.begin() as session:
            signals = Leases(session, self._settings.lease_seconds).heartbeat(self._lease, self._step)
        self._renewed_at = asked_at
        self.wish = signals.wish

    def _fence(self) -> None:
        patience = self._settings.self_fence_seconds
        while not self._over.wait(min(0.25, patience / 10)):
            if time.monotonic() - self._renewed_at > patience:
                return self._end(FencedError(f"the database did not answer for {patience:g} s"))
        return None

    def _end(self, reason: Exception) -> None:
        with self._lock:
            self._reason = self._reason or reason
            if self._kill is not None:
                self._kill()
