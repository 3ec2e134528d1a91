"""What is counted is what was committed, and a scrape tells the queue as the database has it."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from sqlalchemy import update

from sgg_store.attempts import Lease, guard
from sgg_store.database import Database
from sgg_store.errors import BrokerUnavailableError, LeaseLostError
from sgg_store.instruments import ATTEMPTS_ENDED
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.queue import make_celery, ring
from sgg_store.queue_metrics import QueueCollector
from sgg_store.records import AttemptRecord, JobRecord
from sgg_store.retries import Cause
from sgg_store.settings import StoreSettings
from sgg_store.testing import add_job


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def running(database: Database) -> Lease:
    with database.begin() as session:
        job_id = add_job(session).id
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "worker")
    assert claim is not None
    return claim.lease


def scrape(database: Database) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(QueueCollector(database, lease_seconds=60.0))
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_an_attempt_is_counted_by_state_and_cause_when_its_end_is_committed(database: Database) -> None:
    labels = {"state": "lost", "cause": "lost"}
    before = value("sgg_attempts_ended_total", **labels)
    lease = running(database)
    with pytest.raises(ZeroDivisionError), database.begin() as session:
        Leases(session).give_back(lease, Cause.LOST)
        raise ZeroDivisionError
    assert value("sgg_attempts_ended_total", **labels) == before
    with database.begin() as session:
        Leases(session).give_back(lease, Cause.LOST)
    assert value("sgg_attempts_ended_total", **labels) == before + 1
    with database.begin() as session:
        add_job(session)
    assert value("sgg_attempts_ended_total", **labels) == before + 1


def test_an_attempt_without_a_cause_is_counted_too(database: Database) -> None:
    before = ATTEMPTS_ENDED.labels("cancelled", "none")._value.get()
    lease = running(database)
    with database.begin() as session:
        Leases(session).cancelled(lease)
    assert value("sgg_attempts_ended_total", state="cancelled", cause="none") == before + 1


def test_writes_after_the_lease_are_counted(database: Database) -> None:
    lease = running(database)
    with database.begin() as session:
        session.execute(update(AttemptRecord).values(lease_expires_at=0.0))
    before = value("sgg_fenced_writes_total")
    for write in (Leases.heartbeat, Leases.cancelled):
        with pytest.raises(LeaseLostError), database.begin() as session:
            write(Leases(session), lease)
    with pytest.raises(LeaseLostError), database.begin() as session:
        guard(session, lease)
    assert value("sgg_fenced_writes_total") == before + 3


def test_rings_are_counted_by_their_outcome() -> None:
    names = [("sgg_doorbell_rings_total", outcome) for outcome in ("rung", "failed")]
    before = [value(name, outcome=outcome) for name, outcome in names]
    ring(make_celery(StoreSettings(broker_url="memory://")), "ftjob-1")
    with pytest.raises(BrokerUnavailableError):
        ring(make_celery(StoreSettings(broker_url="redis://127.0.0.1:1/0")), "ftjob-1")
    assert [value(name, outcome=outcome) for name, outcome in names] == [before[0] + 1, before[1] + 1]


def test_a_scrape_tells_what_waits_and_for_how_long(database: Database) -> None:
    assert scrape(database)["sgg_queue_oldest_seconds"] == 0.0
    lease = running(database)
    with database.begin() as session:
        old, _ = add_job(session), add_job(session)
        session.execute(update(JobRecord).where(JobRecord.id == old.id).values(created_at=JobRecord.created_at - 500))
        renewed = AttemptRecord.lease_expires_at - 45  # as if the last heartbeat had been 45 s ago
        session.execute(update(AttemptRecord).values(lease_expires_at=renewed))
    found = scrape(database)
    assert (found["sgg_database_up"], found["sgg_jobsqueued"], found["sgg_jobsrunning"]) == (1, 2, 1)
    assert 500 <= found["sgg_queue_oldest_seconds"] < 520
    assert 45 <= found["sgg_lease_oldest_seconds"] < 60
    with database.begin() as session:
        session.execute(update(JobRecord).where(JobRecord.id == lease.job_id).values(created_at=0.0))
        Leases(session).give_back(lease, Cause.PREEMPTED)
    assert scrape(database)["sgg_queue_oldest_seconds"] < 520, "a job waits since its last attempt"
    with database.begin() as session:
        session.execute(update(JobRecord).where(JobRecord.id != old.id).values(status=JobStatus.CANCELLED))
        Jobs(session).request_pause(DEFAULT_PROJECT_ID, old.id)
    assert scrape(database)["sgg_queue_oldest_seconds"] == 0
    with database.begin() as session:
        Jobs(session).resume(DEFAULT_PROJECT_ID, old.id)
    assert scrape(database)["sgg_queue_oldest_seconds"] < 20, "the pause was no waiting"


def test_a_scrape_without_a_database_says_so() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    assert scrape(database) == {"sgg_database_up": 0.0}
    database.dispose()
