"""Sees to it that every call that wants to change something is in the audit log, refused ones within bounds."""

from __future__ import annotations

import threading

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.audit.trail import READING, Trail
from sgg_store.audit import AuditLog, Outcome
from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.logs import get_logger

_log = get_logger(__name__)


class RefusalBudget:
    """Decides which refusals are written down: a few a minute of each caller, and a bounded number of all together.

    The log keeps a bounded number of refusals anyway; this keeps one caller from pushing out what others did.
    """

    OF_ONE = parse("30/minute")
    OF_ALL = parse("300/minute")

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._lock = threading.Lock()
        self._left_out = 0

    def admit(self, who: str) -> int | None:
        """Give how many refusals were left out since the last that was not; None if this one is to be left out."""
        admitted = self._limiter.hit(self.OF_ONE, who) and self._limiter.hit(self.OF_ALL, "all")
        with self._lock:
            if not admitted:
                self._left_out += 1
                return None
            left_out, self._left_out = self._left_out, 0
            return left_out


class AuditFrame:
    """Gives each request its trail, and writes what is left to write before the answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._budget = RefusalBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trail = scope["state"]["trail"] = Trail(scope)
        if scope["method"] in READING:
            await self.app(scope, receive, send)
            return

        async def send_after_writing(message: Message) -> None:
            if message["type"] == "http.response.start" and not (message["status"] < 400 and trail.is_settled):
                await run_in_threadpool(self._settle, trail, message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_after_writing)
        except Exception:
            await run_in_threadpool(self._settle, trail, 500)
            raise

    def _settle(self, trail: Trail, status: int) -> None:
        if "endpoint" not in trail.scope:  # no such path: there was nothing that could have been changed
            return
        if status < 400:
            if not trail.is_settled:
                self._add(trail, status, repeats=0)
            return
        repeats = self._budget.admit(trail.key_id or str(trail.scope.get("client") and trail.scope["client"][0]))
        if repeats is not None:
            self._add(trail, status, repeats)

    @staticmethod
    def _add(trail: Trail, status: int, repeats: int) -> None:
        outcome: Outcome = "succeeded" if status < 400 else "refused" if status < 500 else "failed"
        entry = trail.entry(outcome, status, repeats=repeats)
        database: Database = trail.scope["app"].state.services.database
        try:
            with database.begin() as session:
                AuditLog(session).add(entry)
        except StoreError:  # nothing was changed in the database by this call, so the log of the process has to do
            _log.exception("an entry of the audit log is lost", action=entry.action, target=entry.target, status=status)
