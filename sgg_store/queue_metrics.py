"""The queue as a scrape of Prometheus finds it: asked of the database, so that all servers tell the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.job_state import ACTIVE, AttemptState, JobStatus
from sgg_store.logs import get_logger
from sgg_store.records import AttemptRecord, JobRecord, database_now
from sgg_store.workers import Workers, WorkerState

_log = get_logger(__name__)


class QueueCollector(Collector):
    """Asks the database at every scrape: what waits, for how long, and who holds leases.

    `lease_seconds` is the length of a lease, from which the age of one is told.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the figures, or only that the database does not answer."""
        up = GaugeMetricFamily("sgg_database_up", "Whether the database answered this scrape.")
        try:
            with self._database.read() as session:
                families = [*_jobs(session), _leases(session, self._lease_seconds), _workers(session)]
        except StoreError as error:
            _log.warning("a scrape cannot ask the database", error=str(error))
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from families

    def describe(self) -> list[GaugeMetricFamily]:
        """Name nothing, so that registering does not ask the database."""
        return []


def _jobs(session: Session) -> Iterator[GaugeMetricFamily]:
    jobs = GaugeMetricFamily("sgg_jobs", "Jobs that are not finished, by status.", labels=["status"])
    active = select(JobRecord.status, func.count()).where(JobRecord.status.in_(ACTIVE)).group_by(JobRecord.status)
    counts = dict(session.execute(active).all())
    for status in sorted(ACTIVE):
        jobs.add_metric([status], counts.get(status, 0))
    yield jobs
    queued = JobRecord.status == JobStatus.QUEUED
    waits_since = func.coalesce(JobRecord.queued_at, JobRecord.created_at)
    oldest = select(database_now() - func.min(waits_since)).where(queued)
    age = GaugeMetricFamily(
        "sgg_queue_oldest_seconds", "How long the job that waits longest has waited, since it was queued the last time."
    )
    age.add_metric([], session.execute(oldest).scalar_one() or 0.0)
    yield age


def _leases(session: Session, lease_seconds: float) -> GaugeMetricFamily:
    oldest = select(database_now() + lease_seconds - func.min(AttemptRecord.lease_expires_at))
    age = session.execute(oldest.where(AttemptRecord.state == AttemptState.RUNNING)).scalar_one()
    family = GaugeMetricFamily("sgg_lease_oldest_seconds", "Time since the least recently renewed lease was renewed.")
    family.add_metric([], age or 0.0)
    return family


def _workers(session: Session) -> GaugeMetricFamily:
    family = GaugeMetricFamily("sgg_workers", "Workers by what they do.", labels=["status"])
    counts = Counter(view.state for view in Workers(session).all())
    for state in get_args(WorkerState):
        family.add_metric([state], counts[state])
    return family
