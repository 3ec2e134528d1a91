"""Rings the doorbell again for queued jobs that nobody came for. Any number of dispatchers may run at once."""

from __future__ import annotations

from celery import Celery

from sgg_store.database import Database
from sgg_store.doorbells import Doorbells
from sgg_store.periodic import Periodic
from sgg_store.queue import ring, unanswered
from sgg_store.quota_limits import QuotaLimits
from sgg_store.retries import SPARE_RINGS
from sgg_store.turns import Turns
from sgg_store.workers import Workers


def make_dispatcher(app: Celery, database: Database, seconds: float, quotas: QuotaLimits) -> Periodic:
    """The thread that looks for due doorbells every `seconds`. `quotas` are the server's defaults."""
    return Periodic("dispatcher", seconds, lambda: ring_due(app, database, quotas))


def ring_due(app: Celery, database: Database, quotas: QuotaLimits) -> None:
    """Ring for queued jobs that are due and may run, unless enough doorbells wait to be answered.

    What was not rung stays due. Raises BrokerUnavailableError.
    """
    with database.read() as session:
        due = Doorbells(session).due_for_ring(only=Turns(session, quotas).may_run())
        workers = Workers(session).present() if due else 0
    if not due:
        return
    room = workers + SPARE_RINGS - unanswered(app)
    for job_id in due[: max(0, room)]:
        ring(app, job_id)
        with database.begin() as session:
            Doorbells(session).mark_rung(job_id)
