"""Closes attempts whose lease ran out, so that their jobs go on elsewhere. Any number of reapers may run at once.

Every API process has one, and every worker: as long as anything of the service runs, a lost job is found.
"""

from __future__ import annotations

from sgg_store.database import Database
from sgg_store.leases import Leases
from sgg_store.logs import get_logger
from sgg_store.periodic import Periodic

_log = get_logger(__name__)


def make_reaper(database: Database, seconds: float) -> Periodic:
    """The thread that looks for overdue leases every `seconds`."""
    return Periodic("reaper", seconds, lambda: reap(database))


def reap(database: Database) -> None:
    """Close all attempts whose lease ran out."""
    with database.read() as session:  # mostly there is nothing, which is no reason to take SQLite's write lock
        if not Leases(session).overdue():
            return
    with database.begin() as session:
        lost = Leases(session).expire_overdue()
    for job_id in lost:
        _log.warning("a worker fell silent; its lease ran out", job_id=job_id)
