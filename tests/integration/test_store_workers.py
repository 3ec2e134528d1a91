"""The register of workers, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from sgg_store.database import Database
from sgg_store.forecasts import read_outlook
from sgg_store.leases import JobResult, Leases
from sgg_store.records import WorkerRecord
from sgg_store.testing import add_job
from sgg_store.workers import FORGOTTEN_SECONDS, LOST_SECONDS, Presence, Workers, WorkerView

A = Presence("host-a:1:aa", "host-a", 1, "0.1.0")
B = Presence("host-b:2:bb", "host-b", 2, "0.1.0")


def enter(database: Database, *presences: Presence) -> None:
    for presence in presences:
        with database.begin() as session:
            Workers(session).enter(presence)


def told(database: Database) -> list[WorkerView]:
    with database.read() as session:
        return Workers(session).all()


def states(database: Database) -> dict[str, str]:
    return {view.presence.owner: view.state for view in told(database)}


def present(database: Database) -> int:
    with database.read() as session:
        return Workers(session).present()


def age(database: Database, presence: Presence, seconds: float) -> None:
    with database.begin() as session:
        older = update(WorkerRecord).where(WorkerRecord.owner == presence.owner)
        session.execute(older.values(seen_at=WorkerRecord.seen_at - seconds))


def test_workers_are_told_with_what_they_run(database: Database) -> None:
    enter(database, A, B)
    with database.begin() as session:
        job_id = add_job(session).id
    with database.begin() as session:
        claim = Leases(session).claim(job_id, B.owner)
        assert claim is not None
    first, second = told(database)
    assert (first.presence, first.state, first.job_ids) == (A, "idle", ())
    assert (second.presence, second.state, second.job_ids) == (B, "busy", (job_id,))
    assert second.started_at <= second.seen_at
    with database.begin() as session:
        Leases(session).succeed(claim.lease, JobResult(fine_tuned_model="m", trained_tokens=1, result_file_ids=()))
    assert states(database) == {A.owner: "idle", B.owner: "idle"}


def test_a_worker_that_drains_is_there_no_more_for_new_jobs_and_one_that_left_is_gone(database: Database) -> None:
    enter(database, A, B)
    with database.begin() as session:
        Workers(session).beat(A, draining=True)
    assert (states(database)[A.owner], present(database)) == ("draining", 1)
    with database.begin() as session:
        Workers(session).leave(A.owner)
    assert states(database) == {B.owner: "idle"}


def test_a_silent_worker_is_lost_comes_back_with_a_beat_and_is_forgotten_at_last(database: Database) -> None:
    enter(database, A)
    age(database, A, LOST_SECONDS + 1)
    assert (states(database), present(database)) == ({A.owner: "lost"}, 0)
    with database.begin() as session:
        Workers(session).beat(A, draining=False)
    assert (states(database), present(database)) == ({A.owner: "idle"}, 1)
    age(database, A, FORGOTTEN_SECONDS + 1)
    assert states(database) == {}
    enter(database, B)
    assert states(database) == {B.owner: "idle"}
    with database.begin() as session:
        Workers(session).beat(A, draining=False)
    assert states(database) == {A.owner: "idle", B.owner: "idle"}


def test_a_worker_that_starts_again_under_its_name_takes_the_place_of_the_earlier_one(database: Database) -> None:
    enter(database, A, Presence(A.owner, A.host, 99, "0.2.0"))
    (view,) = told(database)
    assert (view.presence.pid, view.presence.version) == (99, "0.2.0")


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("jobs", [0, 1])
def test_the_outlook_knows_how_many_workers_there_are(database: Database, workers: int, jobs: int) -> None:
    for _ in range(jobs):
        with database.begin() as session:
            add_job(session)
    enter(database, *(Presence(f"w{number}", "h", number, "1") for number in range(workers)))
    with database.read() as session:
        assert read_outlook(session).workers == workers


def test_workers_say_whether_they_answer_trials(database: Database) -> None:
    def somebody() -> bool:
        with database.read() as session:
            return Workers(session).answer_trials()

    assert not somebody()
    silent = replace(A, answers_trials=False)
    enter(database, silent)
    assert not somebody()
    enter(database, B)
    assert somebody() and [view.presence for view in told(database)] == [silent, B]
    with database.begin() as session:
        Workers(session).beat(B, draining=True)
    assert somebody(), "it does until it ends"
    age(database, B, LOST_SECONDS + 1)
    assert not somebody()
    with database.begin() as session:
        Workers(session).beat(A, draining=False)  # started again with other settings
    assert somebody()
