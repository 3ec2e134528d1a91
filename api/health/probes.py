"""Questions to parts that may hang: each is asked in a thread of its own, and nobody waits longer than is allowed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from sgg_store.logs import get_logger

_log = get_logger(__name__)

Question = Callable[[], str | None]
"""Says in one sentence what is wrong with a part, None if nothing is; raises if the part cannot be asked."""


class Probes:
    """Asks all parts at once. While one does not answer, no second question to it begins, however many ask here."""

    def __init__(self, questions: Mapping[str, Question], patience_seconds: float) -> None:
        self._questions = questions
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._pending: dict[str, Future[str]] = {}

    async def outcomes(self) -> dict[str, str]:
        """`ok` or what is wrong, for each part, within the patience."""
        asked = {part: asyncio.wrap_future(self._ask(part)) for part in self._questions}
        await asyncio.wait(asked.values(), timeout=self._patience_seconds)
        silence = f"It does not answer within {self._patience_seconds:g} s; see the server's log."
        return {part: answer.result() if answer.done() else silence for part, answer in asked.items()}

    def _ask(self, part: str) -> Future[str]:
        with self._lock:
            pending = self._pending.get(part)
            if pending is None or pending.done():
                pending = self._pending[part] = Future()
                # a daemon, since a pool's thread that hangs would keep the process from ending
                threading.Thread(target=self._answer, args=(part, pending), name=f"probe-{part}", daemon=True).start()
            return pending

    def _answer(self, part: str, answer: Future[str]) -> None:
        try:
            outcome = self._questions[part]() or "ok"
        except Exception:  # any failure of a part means "not ready"; its text may tell internals, so it is logged only
            _log.exception("a part is not ready", part=part)
            outcome = "It does not answer; see the server's log."
        answer.set_result(outcome)
