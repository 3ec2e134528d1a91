"""Rings the doorbell again for queued jobs that nobody came for. Any number of dispatchers may run at once."""

from __future__ import annotations

from celery import Celery

from sgg_store.database import Database
from sgg_store.leases import Leases
from sgg_store.queue import ring
from worker.periodic import Periodic


def make_dispatcher(app: Celery, database: Database, seconds: float) -> Periodic:
    """The thread that looks for due doorbells every `seconds`."""
    return Periodic("dispatcher", seconds, lambda: ring_due(app, database))


def ring_due(app: Celery, database: Database) -> None:
    """Ring for every queued job that is due. Raises BrokerUnavailableError; what was not rung stays due."""
    with database.read() as session:
        due = Leases(session).due_for_ring()
    for job_id in due:
        ring(app, job_id)
        with database.begin() as session:
            Leases(session).mark_rung(job_id)
