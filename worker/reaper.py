"""Closes attempts whose lease ran out, so that their jobs go on elsewhere. Any number of reapers may run at once."""

from __future__ import annotations

import logging

from sgg_store.database import Database
from sgg_store.leases import Leases
from worker.periodic import Periodic

_log = logging.getLogger(__name__)


def make_reaper(database: Database, seconds: float) -> Periodic:
    """The thread that looks for overdue leases every `seconds`."""
    return Periodic("reaper", seconds, lambda: reap(database))


def reap(database: Database) -> None:
    """Close all attempts whose lease ran out."""
    with database.begin() as session:
        lost = Leases(session).expire_overdue()
    for job_id in lost:
        _log.warning("the worker of %s fell silent; its lease ran out", job_id)
