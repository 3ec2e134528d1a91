"""Questions on their way to a worker and answers on their way back: one poller for all that wait in a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from anyio import CancelScope
from fastapi.concurrency import run_in_threadpool

from api.errors import ApiError, InvalidRequestError, ModelUnavailableError, TrialFailedError, TrialOverdueError
from api.validation import RequestProblem
from sgg_core.trials import TrialAnswer, TrialFailure, trial_answer_adapter
from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.logs import get_logger
from sgg_store.records import TrialState
from sgg_store.trials import GRACE_SECONDS, NewTrial, Progress, TrialLimits, Trials
from sgg_store.workers import Workers

_log = get_logger(__name__)

POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0
"""How often a request that waits looks whether its caller is still there."""
UNAVAILABLE = {"base_model_unavailable", "invalid_checkpoint", "model_not_found", "invalid_catalogue"}
NOBODY_SECONDS = 20.0
"""A trial waits so long for a worker that answers trials: that of a server that has just started may be on its way."""
LOST = {
    "expired": "No worker answered in time: all are busy or loading the base model, or none is running.",
    "silent": "The worker that took the trial stopped responding.",
    "nobody": "No worker answers trials: start one with `sgg worker`, or set SGG_TRIAL_MEMORY_BYTES above 0 for one.",
}


@dataclass
class Waiter:
    """One request that waits. `progress` None with `gone` says that its trial is not there any more."""

    progress: Progress | None = None
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class TrialDesk:
    """The trials of one process. Lives in one event loop; looks at the database in a thread of the loop's pool."""

    def __init__(self, database: Database, limits: TrialLimits) -> None:
        self._database = database
        self._limits = limits
        self._waiting: dict[str, Waiter] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    async def answers(self, new: NewTrial, caller_gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[TrialAnswer]:
        """Ask, and yield the answer as it grows; ends early if the caller has gone. However it ends, its place is free.

        Raises TrialQueueFullError, InvalidRequestError for what the model cannot take, ModelUnavailableError,
        TrialFailedError, TrialOverdueError.
        """
        with CancelScope(shield=True):  # else a caller that goes now would leave a trial that nobody forgets
            trial_id = await run_in_threadpool(self._ask, new)
        try:
            async for answer in self._follow(trial_id, caller_gone):
                yield answer
        finally:
            self._waiting.pop(trial_id, None)
            with CancelScope(shield=True):
                await run_in_threadpool(self._forget, trial_id)

    def close(self) -> None:
        """Let all requests that wait be told to come again, so that the server can stop."""
        self._closed = True
        for waiter in self._waiting.values():
            waiter.changed.set()

    async def _follow(self, trial_id: str, caller_gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[TrialAnswer]:
        waiter = self._waiting[trial_id] = Waiter()
        asked = time.monotonic()
        deadline = asked + self._limits.seconds + GRACE_SECONDS + LOOK_SECONDS  # in case that the database falls silent
        while not self._closed:
            if self._poller is None:
                self._poller = asyncio.create_task(self._poll_while_waited())
            try:
                await asyncio.wait_for(waiter.changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                if await caller_gone():
                    return
                if time.monotonic() > deadline:
                    raise _lost("expired") from None
                waits = waiter.progress is not None and waiter.progress.state is TrialState.WAITING
                if waits and time.monotonic() > asked + NOBODY_SECONDS and await run_in_threadpool(self._nobody):
                    raise _lost("nobody") from None
                continue
            waiter.changed.clear()
            progress = waiter.progress
            if waiter.gone:
                raise _lost("expired")
            if progress is None:
                continue
            if progress.state is TrialState.FAILED:
                raise _refusal(TrialFailure.model_validate(progress.answer))
            if progress.lost is not None:
                raise _lost(progress.lost)
            if progress.answer is not None:
                yield trial_answer_adapter.validate_python(progress.answer)
            if progress.state is TrialState.ANSWERED:
                return
        raise TrialFailedError("The server is stopping. Try again in a moment.")

    async def _poll_while_waited(self) -> None:
        try:
            while self._waiting and not self._closed:
                try:
                    self._spread(await run_in_threadpool(self._look, list(self._waiting)))
                except StoreError as error:
                    _log.warning("those who wait for trials wait longer", error=str(error))
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._poller = None

    def _spread(self, looked: tuple[list[str], dict[str, Progress]]) -> None:
        for trial_id in looked[0]:
            waiter = self._waiting.get(trial_id)
            progress = looked[1].get(trial_id)
            if waiter is not None and (progress is None or progress != waiter.progress):
                waiter.progress, waiter.gone = progress, progress is None
                waiter.changed.set()

    def _ask(self, new: NewTrial) -> str:
        with self._database.begin() as session:
            return Trials(session).ask(new, self._limits)

    def _look(self, trial_ids: list[str]) -> tuple[list[str], dict[str, Progress]]:
        with self._database.read() as session:
            return trial_ids, Trials(session).progress(trial_ids)

    def _nobody(self) -> bool:
        """Whether it is known that no worker answers trials."""
        try:
            with self._database.read() as session:
                return not Workers(session).answer_trials()
        except StoreError:
            return False

    def _forget(self, trial_id: str) -> None:
        try:
            with self._database.begin() as session:
                Trials(session).forget(trial_id)
        except StoreError as error:  # its time will be over anyway
            _log.warning("a trial keeps its place for a while", error=str(error))


def _lost(how: str) -> TrialFailedError:
    return TrialFailedError(f"{LOST[how]} Try again in a moment.")


def _refusal(failure: TrialFailure) -> ApiError:
    if failure.users_fault:
        return InvalidRequestError([RequestProblem(failure.param, failure.code, failure.message)])
    if failure.code == TrialOverdueError.code:
        return TrialOverdueError(failure.message)
    return (ModelUnavailableError if failure.code in UNAVAILABLE else TrialFailedError)(failure.message)
