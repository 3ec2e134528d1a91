"""A thread that does one thing again and again until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sgg_store.errors import StoreError
from sgg_store.logs import get_logger

_log = get_logger(__name__)


class Periodic:
    """Calls `action` every `seconds`. What goes wrong is logged, and tried again the next time."""

    def __init__(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._action = action
        self._over = threading.Event()
        self._due = threading.Event()  # before its time
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; an action that takes long looks at it between its pieces."""
        return self._over.is_set()

    def start(self) -> None:
        """Begin, with a first call at once."""
        self._thread.start()

    def hurry(self) -> None:
        """Call it again at once, or as soon as the call that is under way has ended."""
        self._due.set()

    def stop(self) -> None:
        """End after the call that is under way."""
        self._over.set()
        self._due.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            try:
                self._action()
            except StoreError as error:
                _log.warning("a round was left out", part=self._thread.name, error=str(error))
            except Exception:  # a thread that ended would be missed for as long as the process lives
                _log.exception("a round met a defect", part=self._thread.name)
            self._due.wait(self._seconds)
            self._due.clear()
            if self._over.is_set():
                return
