"""Quotas on both databases: exact, also when callers come at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from sgg_store.checkpoints import ADAPTER_FILES, Checkpoints
from sgg_store.database import Database
from sgg_store.errors import QuotaExceededError, RecordNotFoundError
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.leases import Leases
from sgg_store.new_jobs import NewJobs
from sgg_store.projects import Projects
from sgg_store.quota_limits import QuotaLimits
from sgg_store.quotas import Quotas
from sgg_store.records import AttemptRecord, ProjectRecord, database_now
from sgg_store.retries import Cause
from sgg_store.testing import add_file, add_job, new_job

NONE = QuotaLimits()


def submit(database: Database, limits: QuotaLimits, project_id: str = DEFAULT_PROJECT_ID) -> str:
    with database.begin() as session:
        job, _ = NewJobs(session).create(new_job(session, project_id))
        Quotas(session, limits).admit_job(job)
        return job.id


def store(database: Database, limits: QuotaLimits, count: int) -> None:
    with database.begin() as session:
        Quotas(session, limits).admit_bytes(DEFAULT_PROJECT_ID, count)
        add_file(session, bytes=count)


def run_at_once(action: Callable[[], object], times: int) -> tuple[int, int]:
    """Do it in so many threads at the same moment; give how often it worked and how often a quota was in the way."""
    outcomes: list[bool] = []
    barrier = threading.Barrier(times)

    def attempt() -> None:
        barrier.wait()
        try:
            action()
            outcomes.append(True)
        except QuotaExceededError:
            outcomes.append(False)

    threads = [threading.Thread(target=attempt) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == times
    return outcomes.count(True), outcomes.count(False)


@pytest.fixture(autouse=True)
def project(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)


def used(database: Database, quota: str) -> int:
    with database.read() as session:
        return Quotas(session, NONE).used(DEFAULT_PROJECT_ID, quota)  # type: ignore[arg-type]


def test_of_many_submitters_at_the_same_moment_exactly_as_many_get_in_as_there_is_room(database: Database) -> None:
    limits = QuotaLimits(queued_jobs=3)
    assert run_at_once(lambda: submit(database, limits), 10) == (3, 7)
    assert used(database, "queued_jobs") == 3


def test_of_many_uploads_at_the_same_moment_only_those_are_kept_that_fit(database: Database) -> None:
    limits = QuotaLimits(stored_bytes=350)
    assert run_at_once(lambda: store(database, limits, 100), 8) == (3, 5)
    assert used(database, "stored_bytes") == 300


def test_submitters_and_uploads_at_the_same_moment_do_not_block_each_other_for_good(database: Database) -> None:
    limits = QuotaLimits(queued_jobs=1000, stored_bytes=10**9)
    turn = iter(range(12))

    def mixed() -> None:
        for _ in range(3):
            if next(turn, 0) % 2:
                submit(database, limits)
            else:
                store(database, limits, 1)

    assert run_at_once(mixed, 6) == (6, 0)


def test_a_file_of_exactly_the_room_that_is_left_fits(database: Database) -> None:
    limits = QuotaLimits(stored_bytes=100)
    store(database, limits, 60)
    with pytest.raises(QuotaExceededError, match="100 bytes"):
        store(database, limits, 41)
    store(database, limits, 40)
    with database.read() as session, pytest.raises(QuotaExceededError):
        Quotas(session, limits).expect_bytes(DEFAULT_PROJECT_ID, 1)


def test_a_claimed_job_makes_room_in_the_queue_and_counts_as_running(database: Database) -> None:
    limits = QuotaLimits(queued_jobs=1)
    first = submit(database, limits)
    with pytest.raises(QuotaExceededError):
        submit(database, limits)
    with database.begin() as session:
        assert Leases(session).claim(first, "w")
    submit(database, limits)
    assert (used(database, "running_jobs"), used(database, "queued_jobs")) == (1, 1)


def test_a_job_that_comes_back_from_a_worker_is_never_refused(database: Database) -> None:
    limits = QuotaLimits(queued_jobs=1)
    first = submit(database, limits)
    with database.begin() as session:
        claimed = Leases(session).claim(first, "w")
        assert claimed
    submit(database, limits)
    with database.begin() as session:
        assert Leases(session).give_back(claimed.lease, Cause.PREEMPTED) is JobStatus.QUEUED
    assert used(database, "queued_jobs") == 2


def test_a_projects_own_limit_goes_before_the_servers(database: Database) -> None:
    with database.begin() as session:
        Projects(session).change(DEFAULT_PROJECT_ID, quotas={"queued_jobs": 0})
        other = Projects(session).create("other", {"queued_jobs": 2}).id
    with pytest.raises(QuotaExceededError):
        submit(database, QuotaLimits(queued_jobs=5))
    submit(database, QuotaLimits(queued_jobs=0), other)
    with database.begin() as session:
        Projects(session).change(DEFAULT_PROJECT_ID, quotas={"queued_jobs": None})
    submit(database, QuotaLimits(queued_jobs=5))


def test_training_counts_from_midnight_on_and_while_it_goes_on(database: Database) -> None:
    limits = QuotaLimits(trainer_seconds_per_day=1000)
    first = submit(database, limits)
    with database.begin() as session:
        claimed = Leases(session).claim(first, "w")
        assert claimed
        now = session.execute(select(database_now())).scalar_one()
        since_midnight = now % 86_400
        session.execute(update(AttemptRecord).values(started_at=now - since_midnight - 5000))
    expected = since_midnight
    assert abs(used(database, "trainer_seconds_per_day") - expected) < 60
    with database.begin() as session:
        Leases(session).give_back(claimed.lease, Cause.PREEMPTED)
    counted = used(database, "trainer_seconds_per_day")
    time.sleep(1.1)
    assert used(database, "trainer_seconds_per_day") == counted
    with database.begin() as session:
        session.execute(update(AttemptRecord).values(ended_at=AttemptRecord.started_at + 4000))
    assert used(database, "trainer_seconds_per_day") == 0  # all of it was yesterday


def test_time_in_which_nobody_noticed_that_an_attempt_was_lost_does_not_count(database: Database) -> None:
    job_id = submit(database, NONE)
    with database.begin() as session:
        assert Leases(session).claim(job_id, "w")
        now = session.execute(select(database_now())).scalar_one()
        since_midnight = now % 86_400
        ran = min(60.0, since_midnight / 2)
        lost_at = now - since_midnight + ran  # in the first minute of the day, and it is found just now
        session.execute(update(AttemptRecord).values(started_at=lost_at - ran, lease_expires_at=lost_at))
    assert used(database, "trainer_seconds_per_day") == pytest.approx(ran, abs=1)
    with database.begin() as session:
        assert Leases(session).expire_overdue() == [job_id]
    assert used(database, "trainer_seconds_per_day") == pytest.approx(ran, abs=1)


def test_what_a_job_took_of_the_day_counts_after_it_was_deleted(database: Database) -> None:
    for seconds in (700, 300):
        job_id = submit(database, NONE)
        with database.begin() as session:
            claimed = Leases(session).claim(job_id, "w")
            assert claimed
            Leases(session).fail(claimed.lease, "broken", "It broke.", Cause.USER)
            now = session.execute(select(database_now())).scalar_one()
            began = max(now - seconds, now - now % 86_400)
            times = update(AttemptRecord).where(AttemptRecord.job_id == job_id).values(started_at=began, ended_at=now)
            session.execute(times)
        before = used(database, "trainer_seconds_per_day")
        assert before > 0
        with database.begin() as session:
            Jobs(session).delete(DEFAULT_PROJECT_ID, job_id)
        assert used(database, "trainer_seconds_per_day") == before
    with database.begin() as session:
        session.execute(update(ProjectRecord).values(deleted_day=ProjectRecord.deleted_day - 1))
    assert used(database, "trainer_seconds_per_day") == 0  # that was yesterday


def test_checkpoints_do_not_count_as_stored_bytes(database: Database) -> None:
    job_id = submit(database, NONE)
    with database.begin() as session:
        claimed = Leases(session).claim(job_id, "w")
        assert claimed
        manifest = {name: {"bytes": 1000, "sha256": "0" * 64} for name in ADAPTER_FILES}
        checkpoint = Checkpoints(session).append(claimed.lease, 1, "checkpoints/1", manifest, {})
        assert len(Checkpoints(session).files_of([checkpoint.id])[checkpoint.id]) == len(manifest)
    assert used(database, "stored_bytes") == 0


def test_a_day_whose_training_is_used_up_takes_no_new_job(database: Database) -> None:
    limits = QuotaLimits(trainer_seconds_per_day=0)
    with pytest.raises(QuotaExceededError, match="midnight UTC"):
        submit(database, limits)


def test_an_unknown_project_has_no_quota(database: Database) -> None:
    with database.begin() as session, pytest.raises(RecordNotFoundError):
        Quotas(session, NONE).admit_bytes("proj-nothing", 1)


def test_a_refused_job_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(QuotaExceededError):
        submit(database, QuotaLimits(queued_jobs=0))
    with database.read() as session:
        assert Jobs(session).list_page(DEFAULT_PROJECT_ID).items == []
    with database.begin() as session:
        add_job(session)
