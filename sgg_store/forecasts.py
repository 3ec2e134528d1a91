"""The outlook of the queue, read from what was measured: the pace of steps, and how long such jobs took before."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.job_state import JobStatus
from sgg_store.outlook import Line, Outlook, Spread, spread_of
from sgg_store.records import JobRecord, MetricRecord, ProjectRecord
from sgg_store.workers import Workers

RECENT_STEPS = 50
RECENT_JOBS = 20
FRESH_SECONDS = 1.0


class Forecasts:
    """The outlook of the queue, read anew when it is a second old: however many callers ask, that costs little."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._outlook = Outlook()
        self._read_at = float("-inf")

    def outlook(self) -> Outlook:
        """The queue as it was a second ago at most. Raises DatabaseUnavailableError."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                began = time.monotonic()
                with self._database.read() as session:
                    self._outlook = read_outlook(session)
                self._read_at = began
            return self._outlook


class _Group(NamedTuple):
    """Equal queued jobs: of one project, one priority, and one base model."""

    project_id: str
    priority: int
    base_model: str
    jobs: int
    first_created_at: float


class _Running(NamedTuple):
    id: str
    project_id: str
    base_model: str


def read_outlook(session: Session) -> Outlook:
    """The queue as it is now."""
    groups = _queued(session)
    running = _running(session)
    workers = Workers(session).present()  # also while nothing waits: the next job's caller is told of them at once
    if not groups and not running:
        return Outlook(workers=workers)
    base_models = {group.base_model for group in groups} | {each.base_model for each in running}
    typical = {base_model: _typical(session, base_model) for base_model in base_models}
    left = _left(session)
    waiting: dict[str, int] = defaultdict(int)
    for group in groups:
        waiting[group.base_model] += group.jobs
    return Outlook(
        lines=_lines(session, groups, running),
        left={each.id: left.get(each.id) or typical[each.base_model] for each in running},
        typical=typical,
        waiting=waiting,
        workers=workers,
    )


def _queued(session: Session) -> Sequence[_Group]:
    kinds = (JobRecord.project_id, JobRecord.priority, JobRecord.base_model)
    query = select(*kinds, func.count(), func.min(JobRecord.created_at)).where(JobRecord.status == JobStatus.QUEUED)
    return [_Group(*row) for row in session.execute(query.group_by(*kinds))]


def _running(session: Session) -> Sequence[_Running]:
    query = select(JobRecord.id, JobRecord.project_id, JobRecord.base_model)
    return [_Running(*row) for row in session.execute(query.where(JobRecord.status == JobStatus.RUNNING))]


def _lines(session: Session, groups: Sequence[_Group], running: Sequence[_Running]) -> dict[str, Line]:
    ids = {group.project_id for group in groups} | {each.project_id for each in running}
    query = select(ProjectRecord.id, ProjectRecord.last_claimed_at).where(ProjectRecord.id.in_(ids))
    return {
        project_id: _line(
            [group for group in groups if group.project_id == project_id],
            sum(each.project_id == project_id for each in running),
            last_claimed_at or 0.0,
        )
        for project_id, last_claimed_at in session.execute(query)
    }


def _line(groups: Sequence[_Group], running: int, last_claimed_at: float) -> Line:
    queued: dict[int, int] = defaultdict(int)
    for group in groups:
        queued[group.priority] += group.jobs
    first = min((group.first_created_at for group in groups), default=0.0)
    return Line(running, last_claimed_at, first, queued)


def _left(session: Session) -> dict[str, Spread]:
    """What running jobs still need, from the pace of their newest steps with all that happened between them."""
    query = (
        select(
            MetricRecord.job_id,
            MetricRecord.step,
            MetricRecord.created_at,
            MetricRecord.figures["seconds"].as_float(),
            JobRecord.total_steps - JobRecord.step,
        )
        .join(JobRecord, JobRecord.id == MetricRecord.job_id)
        .where(
            JobRecord.status == JobStatus.RUNNING,
            MetricRecord.type == "step",
            MetricRecord.attempt == JobRecord.current_attempt,  # between two of them a job waits
            MetricRecord.step > JobRecord.step - RECENT_STEPS,
        )
        .order_by(MetricRecord.job_id, MetricRecord.step)
    )
    steps: dict[str, list[_Step]] = defaultdict(list)
    steps_left: dict[str, int | None] = {}
    for job_id, step, at, seconds, left in session.execute(query):
        steps[job_id].append(_Step(step, at, float(seconds)))
        steps_left[job_id] = left
    known = ((job_id, steps_left[job_id], each) for job_id, each in steps.items() if len(each) > 1)
    return {job_id: _needed(left, each) for job_id, left, each in known if left is not None}


class _Step(NamedTuple):
    step: int
    at: float
    seconds: float


def _needed(steps_left: int, steps: Sequence[_Step]) -> Spread:
    seconds = spread_of([each.seconds for each in steps])
    passed = (steps[-1].at - steps[0].at) / (steps[-1].step - steps[0].step)  # with evaluations and checkpoints
    overhead = max(0.0, passed - sum(each.seconds for each in steps) / len(steps))
    return seconds.plus(Spread(overhead, overhead, overhead)).times(steps_left)


def _typical(session: Session, base_model: str) -> Spread | None:
    """How long the newest jobs on a base model took that succeeded in one go, so that they waited for nothing."""
    query = (
        select(JobRecord.finished_at - JobRecord.started_at)
        .where(
            JobRecord.base_model == base_model,
            JobRecord.status == JobStatus.SUCCEEDED,
            JobRecord.current_attempt == 1,
        )
        .order_by(JobRecord.finished_at.desc())
        .limit(RECENT_JOBS)
    )
    took: Iterable[float | None] = session.scalars(query)
    known = [float(seconds) for seconds in took if seconds is not None]
    return spread_of(known) if known else None
