"""What a worker tells of its attempt stands in the job's story once, whatever happens to the database's answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.orm import Session

from sgg_core.reporting import CheckpointSaved, EvaluationMetrics, Notice, Started
from sgg_core.spec import CheckpointSpec
from sgg_store.database import Database
from sgg_store.errors import DatabaseUnavailableError
from sgg_store.events import Events
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.metrics import AnyMetrics, Metrics
from sgg_store.retries import Cause
from sgg_store.testing import add_job, step_metrics
from worker.errors import FencedError, StalledError
from worker.lease_keeper import LeaseKeeper
from worker.reporter import JobReporter
from worker.settings import WorkerSettings


class ForgetfulDatabase(Database):
    """A real database that commits, and then loses as many answers as `to_lose` says."""

    to_lose = 0

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with super().begin() as session:
            yield session
        if self.to_lose:
            self.to_lose -= 1
            raise DatabaseUnavailableError("The connection broke.", "Try again.")


def test_what_was_committed_without_an_answer_is_not_told_twice(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session)
        claim = Leases(session).claim(job.id, "worker")
    assert claim is not None
    forgetful = ForgetfulDatabase(database.url)
    with LeaseKeeper(forgetful, claim.lease, WorkerSettings()) as keeper:
        reporter = JobReporter(keeper, claim.lease, told_steps={}, flush_seconds=60)
        forgetful.to_lose = 2
        reporter.take(Notice(message="first"))
        with database.begin() as session:
            Jobs(session).request_pause(DEFAULT_PROJECT_ID, job.id)
        reporter.take(Notice(message="second"))
        forgetful.to_lose = 1
        saved = CheckpointSaved(step=7, directory="", metrics={})
        assert reporter.checkpoint(saved, "somewhere", {}, CheckpointSpec(), 100) == []
        reporter.take(Notice(message="third"))
        reporter.flush()
    forgetful.dispose()
    assert forgetful.to_lose == 0
    with database.read() as session:
        told = [event.message for event in Events(session).since(DEFAULT_PROJECT_ID, job.id, 2)]
    assert told == ["first", "A pause was requested.", "second", "Checkpoint saved after step 7.", "third"]


def test_the_beginning_and_the_first_steps_figures_can_be_read_at_once(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
        claim = Leases(session).claim(job_id, "worker")
    assert claim is not None

    def told() -> list[str]:
        with database.read() as session:
            return [event.message[:6] for event in Events(session).since(DEFAULT_PROJECT_ID, job_id, 2)]

    begun = Started(
        first_step=1,
        total_steps=9,
        trainable_parameters=1,
        learning_rates=(0.1,),
        batch_size=2,
        epochs=3,
        reference=None,
    )
    with LeaseKeeper(database, claim.lease, WorkerSettings()) as keeper:
        reporter = JobReporter(keeper, claim.lease, told_steps={}, flush_seconds=60)
        for message in (Notice(message="notice"), begun, step_metrics(1)):
            reporter.take(message)
        assert told() == ["notice", "Steps ", "Step 1"]
        reporter.take(step_metrics(2))
        assert len(told()) == 3
        reporter.flush()
        assert told()[3:] == ["Step 2"]
    with database.read() as session:
        job = Jobs(session).get(DEFAULT_PROJECT_ID, job_id)
        assert (job.epochs, job.batch_size) == (3, 2)


class SlowDatabase(Database):
    """A real database that takes its time for each change."""

    seconds = 1.0

    @contextmanager
    def begin(self) -> Iterator[Session]:
        time.sleep(self.seconds)
        with super().begin() as session:
            yield session


@pytest.mark.parametrize(
    ("kind", "bounds", "reason"),
    [(SlowDatabase, {"self_fence_seconds": 1.5}, FencedError), (Database, {"stall_seconds": 0.5}, StalledError)],
)
def test_a_trainer_is_killed_before_its_lease_is_in_doubt_and_when_it_says_nothing(
    database: Database, kind: type[Database], bounds: dict[str, float], reason: type[Exception]
) -> None:
    """A beat renews the lease from when it was asked for: answers that are each in time come too late together."""
    with database.begin() as session:
        claim = Leases(session).claim(add_job(session).id, "worker")
    assert claim is not None
    own = kind(database.url)
    killed = threading.Event()
    settings = WorkerSettings(lease_seconds=20, heartbeat_seconds=0.1, flush_seconds=0.1, **bounds)
    with LeaseKeeper(own, claim.lease, settings) as keeper, keeper.ending(killed.set):
        assert not killed.is_set()
        assert killed.wait(settings.lease_seconds - settings.self_fence_seconds)
        with pytest.raises(reason):
            keeper.check()
    own.dispose()


def evaluation(number: int) -> EvaluationMetrics:
    return EvaluationMetrics(step=number, valid_loss=0.5, examples=4)


def test_steps_that_attempts_repeat_are_told_once_however_far_each_came(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id

    def attempt(*messages: AnyMetrics) -> None:
        """Say this, then die."""
        with database.begin() as session:
            claim = Leases(session).claim(job_id, "worker")
        assert claim is not None
        with database.read() as session:
            told_steps = Metrics(session).told_steps(job_id)
        with LeaseKeeper(database, claim.lease, WorkerSettings()) as keeper:
            reporter = JobReporter(keeper, claim.lease, told_steps, flush_seconds=0)
            for message in messages:
                reporter.take(message)
        with database.begin() as session:
            Leases(session).give_back(claim.lease, Cause.LOST)

    attempt(step_metrics(1), step_metrics(2), evaluation(2), step_metrics(3), step_metrics(4))
    attempt(step_metrics(1))
    attempt(
        step_metrics(1),
        step_metrics(2),
        evaluation(2),
        step_metrics(3),
        step_metrics(4),
        evaluation(4),
        step_metrics(5),
    )
    with database.read() as session:
        events = Events(session).since(DEFAULT_PROJECT_ID, job_id, 0)
    told = [("valid_loss" in event.data, event.data["step"]) for event in events if event.type == "metrics"]
    once = [(False, 1), (False, 2), (True, 2), (False, 3), (False, 4), (True, 4), (False, 5)]
    assert told == once
