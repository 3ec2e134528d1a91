"""What every process of the service counts, in Prometheus's form.

The queue as a scrape finds it is in `sgg_store/queue_metrics.py`, what the edges measure in their own instruments.py.
"""

from __future__ import annotations

from prometheus_client import Counter
from sqlalchemy import event
from sqlalchemy.orm import Session

DOORBELLS = Counter("sgg_doorbell_rings_total", "Doorbells that were rung, or failed to ring, here.", ["outcome"])
FENCED_WRITES = Counter(
    "sgg_fenced_writes_total", "Writes that were refused here since the attempt had lost its job's lease."
)
ATTEMPTS_ENDED = Counter(
    "sgg_attempts_ended_total",
    "Attempts whose end was written here, by what became of them and why.",
    ["state", "cause"],
)


def count_at_commit(session: Session, counter: Counter) -> None:
    """Count one when the session's transaction is committed, and nothing if it is rolled back."""
    event.listen(session, "after_commit", lambda _: counter.inc(), once=True)
