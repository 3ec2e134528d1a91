"""What a worker tells of its attempt stands in the job's story once, whatever happens to the database's answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from sgg_core.reporting import CheckpointSaved, Notice
from sgg_core.spec import CheckpointSpec
from sgg_store.database import Database
from sgg_store.errors import DatabaseUnavailableError
from sgg_store.events import Events
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.testing import add_job
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
        reporter = JobReporter(keeper, claim.lease, told_step=0, flush_seconds=60)
        forgetful.to_lose = 2
        reporter.take(Notice(message="first"))
        with database.begin() as session:
            Jobs(session).request_pause(DEFAULT_PROJECT_ID, job.id)
        reporter.take(Notice(message="second"))
        forgetful.to_lose = 1
        saved = CheckpointSaved(step=7, directory="", metrics={})
        assert reporter.checkpoint(saved, "somewhere", {}, CheckpointSpec()) == []
        reporter.take(Notice(message="third"))
        reporter.flush()
    forgetful.dispose()
    assert forgetful.to_lose == 0
    with database.read() as session:
        told = [event.message for event in Events(session).since(DEFAULT_PROJECT_ID, job.id, 2)]
    assert told == ["first", "A pause was requested.", "second", "Checkpoint saved after step 7.", "third"]
