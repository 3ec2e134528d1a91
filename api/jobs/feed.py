"""Live events: one poller for all streams of a process, and streams that can be taken up again after any event."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event
from sqlalchemy import select

from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.events import Events
from sgg_store.job_state import TERMINAL, JobStatus
from sgg_store.logs import get_logger
from sgg_store.records import EventRecord, JobRecord

_log = get_logger(__name__)

POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
LONGEST_SECONDS = 3600.0  # then the client comes again, and its key is looked at again
# Lines alone, without the empty one that ends an event: OpenAI's client takes every empty line for one.
RECONNECT = b"retry: 1000\n"
KEEPALIVE = b": still here\n"
KEPT_EVENTS = 256
PAGE = 500

Line = tuple[int, bytes]  # an event's number, and the event as it goes over the wire


@dataclass
class Followed:
    """A job that somebody follows: what the poller saw of it last. `latest` is None until the first look."""

    project_id: str
    followers: int = 0
    latest: int | None = None
    status: JobStatus | None = None
    deleted: bool = False
    kept: deque[Line] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, seq: int) -> list[Line] | None:
        """The events after number `seq`, or None if only the database has all of them."""
        if self.latest is not None and seq >= self.latest:
            return []
        if self.kept and self.kept[0][0] <= seq + 1:
            return [line for line in self.kept if line[0] > seq]
        return None

    def is_over(self, seq: int) -> bool:
        """Whether event `seq` is the last one there will ever be."""
        return self.status in TERMINAL and self.latest is not None and seq >= self.latest

    def wake(self) -> None:
        """Let all streams look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class EventFeed:
    """The streams of one process. Lives in one event loop; looks at the database in a thread of the loop's pool."""

    def __init__(self, database: Database, render: Callable[[EventRecord], str]) -> None:
        self._database = database
        self._render = render
        self._jobs: dict[str, Followed] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    async def stream(
        self, project_id: str, job_id: str, seq: int, is_allowed: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Give the job's events after number `seq` as server-sent events, each once and in order.

        After the event of the final status comes one named `end`. A stream without it broke off: come again with the
        last event's id, and learn that the job was deleted if that is why. Every KEEPALIVE_SECONDS it asks, in a
        thread, whether this `is_allowed` still, and breaks off if not.
        """
        asked_at = time.monotonic()
        ends_at = asked_at + LONGEST_SECONDS
        yield RECONNECT
        with self._following(project_id, job_id) as job:
            while not (self._closed or job.deleted) and time.monotonic() < ends_at:
                if time.monotonic() - asked_at >= KEEPALIVE_SECONDS:
                    asked_at = time.monotonic()
                    if not await run_in_threadpool(is_allowed):
                        return
                changed = job.changed  # taken before looking, so that no change falls between look and wait
                lines = job.after(seq)
                if lines is None:
                    lines = await self._read(project_id, job_id, seq)
                for number, line in lines:
                    yield line
                    seq = number
                if lines:
                    continue
                if job.is_over(seq):
                    yield format_sse_event(event="end", data_str=json.dumps({"status": job.status}))
                    return
                self._ensure_poller()
                try:
                    await asyncio.wait_for(changed.wait(), KEEPALIVE_SECONDS)
                except TimeoutError:
                    yield KEEPALIVE

    def close(self) -> None:
        """End all streams, so that the server need not wait for jobs before it can stop."""
        self._closed = True
        for job in self._jobs.values():
            job.wake()

    @contextmanager
    def _following(self, project_id: str, job_id: str) -> Iterator[Followed]:
        job = self._jobs.setdefault(job_id, Followed(project_id))
        job.followers += 1
        try:
            yield job
        finally:
            job.followers -= 1
            if job.followers == 0:
                del self._jobs[job_id]

    def _ensure_poller(self) -> None:
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll_while_followed())

    async def _poll_while_followed(self) -> None:
        try:
            while self._jobs and not self._closed:
                try:
                    await self._poll()
                except StoreError as error:
                    _log.warning("the streams of events wait", error=str(error))
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._poller = None

    async def _poll(self) -> None:
        """Look at all followed jobs with one query, and read what is new, once for all who follow."""
        asked = list(self._jobs)
        heads = await run_in_threadpool(self._heads, asked)
        for job_id in asked:
            if job_id in self._jobs and job_id not in heads:
                self._jobs[job_id].deleted = True
                self._jobs[job_id].wake()
        for job_id, (status, latest) in heads.items():
            job = self._jobs.get(job_id)
            if job is None or (job.latest, job.status) == (latest, status):
                continue
            if job.latest is not None and latest > job.latest:
                lines = await run_in_threadpool(self._lines, job.project_id, job_id, job.latest)
                if not lines:
                    continue  # deleted since, as the next look will find
                job.kept.extend(lines)
                job.latest = lines[-1][0]
            else:
                job.latest = latest
            if job.latest >= latest:  # a status counts once its event has been read
                job.status = status
            job.wake()

    def _heads(self, job_ids: list[str]) -> dict[str, tuple[JobStatus, int]]:
        query = select(JobRecord.id, JobRecord.status, JobRecord.last_event_seq).where(JobRecord.id.in_(job_ids))
        with self._database.read() as session:
            return {job_id: (status, latest) for job_id, status, latest in session.execute(query)}

    async def _read(self, project_id: str, job_id: str, seq: int) -> list[Line]:
        try:
            return await run_in_threadpool(self._lines, project_id, job_id, seq)
        except StoreError as error:
            _log.warning("events cannot be read now", job_id=job_id, error=str(error))
            return []

    def _lines(self, project_id: str, job_id: str, seq: int) -> list[Line]:
        with self._database.read() as session:
            events = Events(session).since(project_id, job_id, seq, limit=PAGE)
            return [(event.seq, format_sse_event(data_str=self._render(event), id=event.id)) for event in events]
