"""Following a job to its end: events in order, figures as they come, and patience while the server is away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from cli.client import Client
from cli.errors import CliError, ServerUnreachableError
from cli.output import complain, print_json_line
from cli.progress import Figures, Pace, absorb, open_view

EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 3, "paused": 4}
INTERRUPTED = 130
POLL_SECONDS = 0.5
LONGEST_BACK_OFF = 8.0
GIVE_UP_SECONDS = 900.0  # longer than any restart; after that somebody has to look


class Watcher:
    """Reads a job's new events and status, once each, however often the server goes away in between."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._path = f"/fine_tuning/jobs/{job_id}"
        self._last_event: str | None = None

    def poll(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the job and its new events, oldest first.

        The job is read before its events, so that the events of an ended job are complete.
        """
        job = self._client.get(self._path)
        events = list(self._new_events())
        if events:
            self._last_event = events[0]["id"]
        return job, events[::-1]

    def _new_events(self) -> Iterator[dict[str, Any]]:
        for event in self._client.items(f"{self._path}/events"):
            if event["id"] == self._last_event:
                return
            yield event


def watch_job(client: Client, job_id: str, *, as_json: bool) -> int:
    """Follow a job until it ends or is paused, and return the exit code of that. Ctrl-C only ends the watching."""
    watcher = Watcher(client, job_id)
    try:
        job = _follow_json(watcher) if as_json else _follow(watcher)
    except KeyboardInterrupt:
        if as_json:
            again = f"Watch it again with: sgg jobs watch {job_id} --json"
            raise CliError(
                f"No longer watching; {job_id} goes on at the server.", again, exit_code=INTERRUPTED
            ) from None
        complain(f"\nNo longer watching; {job_id} goes on at the server.")
        complain(f"  watch again: sgg jobs watch {job_id}\n  end the job: sgg jobs cancel {job_id}")
        return INTERRUPTED
    if job["status"] == "paused":
        complain(f"{job_id} is paused until it is resumed with: sgg jobs resume {job_id}")
    return EXIT_CODES[job["status"]]


def _follow(watcher: Watcher) -> dict[str, Any]:
    figures, pace = Figures(), Pace()
    with open_view() as view:
        for job, events in _polls(watcher, view.note):
            for event in events:
                figures = absorb(figures, event["data"])
                if event["type"] != "metrics":
                    view.note(event["message"])
            running = job["status"] == "running"
            figures = dataclasses.replace(figures, seconds_left=pace.seconds_left(figures) if running else None)
            view.show(job["status"], figures)
    return job


def _follow_json(watcher: Watcher) -> dict[str, Any]:
    job: dict[str, Any] = {}
    for job, events in _polls(watcher, complain):  # noqa: B007 (the last one is the answer)
        for event in events:
            print_json_line(event)
    return job


def _polls(watcher: Watcher, tell: Callable[[str], None]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield what each poll brings until the job rests; a server that is away is tried again with back-off."""
    back_off, away_since = POLL_SECONDS, None
    while True:
        try:
            job, events = watcher.poll()
        except ServerUnreachableError as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                tell(f"{error.message} Trying again until the server is back; Ctrl-C only ends the watching.")
            if now - away_since > GIVE_UP_SECONDS:
                raise
            time.sleep(back_off)
            back_off = min(2 * back_off, LONGEST_BACK_OFF)
            continue
        if away_since is not None:
            tell("The server is back.")
        back_off, away_since = POLL_SECONDS, None
        yield job, events
        if job["status"] in EXIT_CODES:
            return
        time.sleep(POLL_SECONDS)
