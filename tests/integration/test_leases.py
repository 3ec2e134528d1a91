"""Leases on both databases: who may run a job and write about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from sgg_store.attempts import Lease, guard
from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.doorbells import Doorbells
from sgg_store.errors import DatabaseUnavailableError, LeaseLostError
from sgg_store.events import Events, NewEvent
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.leases import Claim, JobResult, Leases
from sgg_store.metrics import Metrics
from sgg_store.records import AttemptRecord, EventRecord, JobRecord, database_now
from sgg_store.retries import Cause
from sgg_store.testing import add_file, add_job, step_metrics

SHORT = 0.2
RESULT = JobResult(fine_tuned_model="ft:tiny:default::1", trained_tokens=10, result_file_ids=("file-1",))


@pytest.fixture
def job_id(database: Database) -> str:
    with database.begin() as session:
        return add_job(session).id


def claim(database: Database, job_id: str, seconds: float = 60.0) -> Claim:
    with database.begin() as session:
        claimed = Leases(session, seconds).claim(job_id, "worker-1")
    assert claimed is not None
    return claimed


def job_of(database: Database, job_id: str) -> JobRecord:
    with database.read() as session:
        return Jobs(session).get(DEFAULT_PROJECT_ID, job_id)


def attempts_of(database: Database, job_id: str) -> list[AttemptRecord]:
    with database.read() as session:
        query = select(AttemptRecord).where(AttemptRecord.job_id == job_id).order_by(AttemptRecord.number)
        return list(session.scalars(query))


WRITES: dict[str, Callable[[Leases, Lease], object]] = {
    "heartbeat": lambda leases, lease: leases.heartbeat(lease, 3),
    "guard": lambda leases, lease: guard(leases.session, lease),
    "succeed": lambda leases, lease: leases.succeed(lease, RESULT),
    "fail": lambda leases, lease: leases.fail(lease, "code", "message"),
    "cancelled": lambda leases, lease: leases.cancelled(lease),
    "paused": lambda leases, lease: leases.paused(lease),
    "give_back": lambda leases, lease: leases.give_back(lease, Cause.PREEMPTED),
    "event": lambda leases, lease: Events(leases.session).append(lease, [NewEvent("hello")]),
    "no event": lambda leases, lease: Events(leases.session).append(lease, []),
    "metrics": lambda leases, lease: Metrics(leases.session).append(lease, [step_metrics(1)]),
    "checkpoint": lambda leases, lease: Checkpoints(leases.session).append(lease, 1, "prefix", {}, {}),
    "damage": lambda leases, lease: Checkpoints(leases.session).mark_damaged(lease, "ftckpt_1"),
    "prune": lambda leases, lease: Checkpoints(leases.session).prune(lease, 1, None),
}
ENDS = {
    "succeed": JobStatus.SUCCEEDED,
    "fail": JobStatus.FAILED,
    "cancelled": JobStatus.CANCELLED,
    "paused": JobStatus.QUEUED,  # since nobody asked for it
    "give_back": JobStatus.QUEUED,
}


def test_a_claim_brings_all_that_a_worker_needs(database: Database) -> None:
    with database.begin() as session:
        files = [add_file(session) for _ in range(4)]
        job = add_job(
            session,
            training_file_id=files[0].id,
            validation_file_id=files[1].id,
            source_file_ids=(files[3].id, files[2].id),
            suffix="s",
        )
    claimed = claim(database, job.id)
    assert (claimed.lease.job_id, claimed.lease.attempt, claimed.lease.owner) == (job.id, 1, "worker-1")
    assert (claimed.spec, claimed.base_model) == ({"base_model": "tiny"}, "tiny")
    assert claimed.model_name == f"ft:tiny:default:s:{job.id[-12:]}"
    assert claimed.training_file.object_key == files[0].object_key
    assert claimed.validation_file is not None
    assert claimed.validation_file.id == files[1].id
    assert [file.id for file in claimed.source_files] == [files[3].id, files[2].id]
    assert claimed.checkpoint is None
    running = job_of(database, job.id)
    assert (running.status, running.current_attempt) == (JobStatus.RUNNING, 1)
    assert running.started_at is not None


def test_doorbells_for_anything_but_a_queued_job_do_nothing(database: Database, job_id: str) -> None:
    first = claim(database, job_id)
    for unclaimable in (job_id, "ftjob-unknown", ""):
        with database.begin() as session:
            assert Leases(session).claim(unclaimable, "worker-2") is None
    with database.begin() as session:
        Leases(session).succeed(first.lease, RESULT)
    with database.begin() as session:
        assert Leases(session).claim(job_id, "worker-2") is None
    assert len(attempts_of(database, job_id)) == 1


def test_a_job_keeps_the_time_when_its_first_attempt_began(database: Database, job_id: str) -> None:
    first = claim(database, job_id)
    with database.begin() as session:
        session.execute(update(JobRecord).values(started_at=1.0))
        Leases(session).give_back(first.lease, Cause.PREEMPTED)
    claim(database, job_id)
    assert job_of(database, job_id).started_at == 1.0


def test_of_two_workers_at_the_same_moment_exactly_one_gets_the_job(database: Database) -> None:
    with database.begin() as session:
        job_ids = [add_job(session).id for _ in range(5)]
    barrier = threading.Barrier(2)
    won: list[str] = []

    def work(owner: str) -> None:
        for job_id in job_ids:
            barrier.wait()
            with database.begin() as session:
                if Leases(session).claim(job_id, owner) is not None:
                    won.append(job_id)

    threads = [threading.Thread(target=work, args=(f"worker-{index}",)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(job_ids)


def test_the_database_itself_refuses_a_second_running_attempt(database: Database, job_id: str) -> None:
    claim(database, job_id)
    with pytest.raises(IntegrityError), database.begin() as session:
        values = {"job_id": job_id, "number": 2, "token": "t", "owner": "o", "lease_expires_at": 0.0}
        session.execute(insert(AttemptRecord).values(**values))


@pytest.mark.parametrize("write", WRITES)
def test_every_write_works_under_the_lease(database: Database, job_id: str, write: str) -> None:
    lease = claim(database, job_id).lease
    with database.begin() as session:
        WRITES[write](Leases(session), lease)
    assert job_of(database, job_id).status is ENDS.get(write, JobStatus.RUNNING)


@pytest.mark.parametrize("write", WRITES)
def test_every_write_with_another_token_is_refused(database: Database, job_id: str, write: str) -> None:
    lease = claim(database, job_id).lease
    forged = Lease(lease.job_id, lease.project_id, lease.attempt, "0" * 32, lease.owner)
    with pytest.raises(LeaseLostError), database.begin() as session:
        WRITES[write](Leases(session), forged)
    assert job_of(database, job_id).status is JobStatus.RUNNING


def test_every_write_after_the_lease_ran_out_is_refused_even_before_the_reaper_comes(
    database: Database, job_id: str
) -> None:
    lease = claim(database, job_id, SHORT).lease
    time.sleep(SHORT * 1.5)
    before = job_of(database, job_id).last_event_seq
    for write in WRITES.values():
        with pytest.raises(LeaseLostError), database.begin() as session:
            write(Leases(session, SHORT), lease)
    after = job_of(database, job_id)
    assert (after.status, after.last_event_seq) == (JobStatus.RUNNING, before)


def test_every_write_of_a_zombie_is_refused_while_its_successor_works(database: Database, job_id: str) -> None:
    zombie = claim(database, job_id, SHORT).lease
    time.sleep(SHORT * 1.5)
    with database.begin() as session:
        assert Leases(session).expire_overdue() == [job_id]
    successor = claim(database, job_id).lease
    for write in WRITES.values():
        with pytest.raises(LeaseLostError), database.begin() as session:
            write(Leases(session), zombie)
    with database.begin() as session:
        Leases(session).succeed(successor, RESULT)
    assert [attempt.state for attempt in attempts_of(database, job_id)] == [AttemptState.LOST, AttemptState.SUCCEEDED]
    assert successor.token != zombie.token


def test_heartbeats_keep_a_short_lease_alive_and_bring_cancellation(database: Database, job_id: str) -> None:
    seconds = 3.0  # so long that a busy machine is no reason to lose it, and shorter than all that follows
    lease = claim(database, job_id, seconds).lease
    for beat in range(4):
        time.sleep(0.3 * seconds)
        with database.begin() as session:
            assert not Leases(session, seconds).heartbeat(lease, beat).cancel_requested
    with database.begin() as session:
        assert Leases(session).expire_overdue() == []
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
    with database.begin() as session:
        assert Leases(session).heartbeat(lease).cancel_requested
    assert attempts_of(database, job_id)[0].last_step == 3


def test_success_is_one_transaction_of_job_attempt_event_and_result(database: Database, job_id: str) -> None:
    lease = claim(database, job_id).lease
    with pytest.raises(RuntimeError), database.begin() as session:
        Leases(session).succeed(lease, RESULT)
        raise RuntimeError("the process dies before the commit")
    job = job_of(database, job_id)
    assert (job.status, job.fine_tuned_model, job.last_event_seq) == (JobStatus.RUNNING, None, 2)
    assert attempts_of(database, job_id)[0].state is AttemptState.RUNNING
    with database.begin() as session:
        Leases(session).succeed(lease, RESULT)
    job = job_of(database, job_id)
    assert (job.status, job.fine_tuned_model) == (JobStatus.SUCCEEDED, RESULT.fine_tuned_model)
    assert (job.trained_tokens, job.result_file_ids) == (10, ["file-1"])
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at


def test_a_result_may_win_over_a_cancellation(database: Database, job_id: str) -> None:
    lease = claim(database, job_id).lease
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
    with database.begin() as session:
        Leases(session).succeed(lease, RESULT)
    assert job_of(database, job_id).status is JobStatus.SUCCEEDED


def test_an_obeyed_cancellation_says_which_checkpoint_stays(database: Database, job_id: str) -> None:
    lease = claim(database, job_id).lease
    with database.begin() as session:
        Checkpoints(session).append(lease, 40, "prefix", {}, {})
        Leases(session).cancelled(lease)
    with database.read() as session:
        last = Events(session).list_page(DEFAULT_PROJECT_ID, job_id, limit=1).items[0]
    name = f"ft:tiny:default::{job_id[-12:]}:ckpt-step-40"
    assert last.message == f"The job was cancelled. Its last checkpoint is {name}."
    assert last.data == {"last_checkpoint_step": 40, "last_checkpoint": name}
    assert job_of(database, job_id).status is JobStatus.CANCELLED


def test_a_lost_job_whose_cancellation_was_requested_is_cancelled(database: Database, job_id: str) -> None:
    claim(database, job_id, SHORT)
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
    time.sleep(SHORT * 1.5)
    with database.begin() as session:
        Leases(session).expire_overdue()
    assert job_of(database, job_id).status is JobStatus.CANCELLED


def test_faults_of_the_data_fail_at_once_with_their_name(database: Database, job_id: str) -> None:
    lease = claim(database, job_id).lease
    with database.begin() as session:
        Leases(session).fail(lease, "out_of_memory", "Too large. Lower batch_size.", param="batch_size")
    job = job_of(database, job_id)
    assert (job.status, job.error_code, job.error_message) == (
        "failed",
        "out_of_memory",
        "Too large. Lower batch_size.",
    )
    assert job.error_param == "batch_size"
    assert attempts_of(database, job_id)[0].cause is Cause.USER


def test_a_trainer_that_dies_twice_at_the_same_step_is_poison(database: Database, job_id: str) -> None:
    with database.begin() as session:
        claimed = Leases(session).claim(job_id, "w")
        assert claimed
        assert Leases(session).give_back(claimed.lease, Cause.CRASHED, "signal 9") is JobStatus.QUEUED
    progress = claim(database, job_id)
    with database.begin() as session:
        Checkpoints(session).append(progress.lease, 8, "prefix", {}, {})
        assert Leases(session).give_back(progress.lease, Cause.CRASHED, "signal 9") is JobStatus.FAILED
    job = job_of(database, job_id)
    assert job.error_code == "poison_job"
    assert "batch_size" in (job.error_message or "")


def test_progress_between_crashes_starts_a_new_count(database: Database, job_id: str) -> None:
    for saved in (8, 16, 24):
        claimed = claim(database, job_id)
        with database.begin() as session:
            Checkpoints(session).append(claimed.lease, saved, "prefix", {}, {})
            assert Leases(session).give_back(claimed.lease, Cause.CRASHED) is JobStatus.QUEUED
    assert [attempt.start_step for attempt in attempts_of(database, job_id)] == [0, 8, 16]


def test_causes_have_budgets_of_their_own(database: Database, job_id: str) -> None:
    causes = [Cause.LOST] * 4 + [Cause.PREEMPTED] * 4 + [Cause.DATABASE] * 4 + [Cause.STORAGE] * 4 + [Cause.CRASHED]
    for cause in causes:
        with database.begin() as session:
            claimed = Leases(session).claim(job_id, "w")
            assert claimed
            assert Leases(session).give_back(claimed.lease, cause) is JobStatus.QUEUED
    last = claim(database, job_id)
    with database.begin() as session:
        assert Leases(session).give_back(last.lease, Cause.LOST) is JobStatus.FAILED
    assert job_of(database, job_id).error_code == "worker_lost"


def test_a_restarted_worker_closes_its_own_attempts_at_once(database: Database, job_id: str) -> None:
    claim(database, job_id)
    with database.begin() as session:
        assert Leases(session).expire_owned_by("worker-2") == []
        assert Leases(session).expire_owned_by("worker-1") == [job_id]
    job = job_of(database, job_id)
    assert job.status is JobStatus.QUEUED
    with database.read() as session:
        assert Doorbells(session).due_for_ring() == [job_id]


def test_what_earlier_attempts_took_does_not_grow_while_nobody_notices_that_one_was_lost(
    database: Database, job_id: str
) -> None:
    first = claim(database, job_id)
    assert first.spent_seconds == 0.0
    with database.begin() as session:  # it died two days ago, ten seconds after its lease was renewed for a minute
        now = session.execute(select(database_now())).scalar_one()
        times = {"started_at": now - 172_870, "lease_expires_at": now - 172_800}
        session.execute(update(AttemptRecord).values(**times))
    with database.begin() as session:
        assert Leases(session).expire_overdue() == [job_id]
    assert claim(database, job_id).spent_seconds == pytest.approx(70, abs=0.1)


def test_reapers_at_the_same_moment_close_each_attempt_once(database: Database) -> None:
    with database.begin() as session:
        job_ids = [add_job(session).id for _ in range(6)]
    for job_id in job_ids:
        claim(database, job_id, 0.01)
    time.sleep(0.05)
    closed: list[str] = []

    def reap() -> None:
        with database.begin() as session:
            found = Leases(session).expire_overdue(limit=4)
        closed.extend(found)

    for _ in range(2):
        threads = [threading.Thread(target=reap) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(closed) == sorted(job_ids)


def test_a_write_that_began_in_time_is_not_cut_in_two_by_the_reaper(database: Database, job_id: str) -> None:
    seconds = 2.0  # so long that the write begins in time on a busy machine, too
    lease = claim(database, job_id, seconds).lease
    began = threading.Event()
    reaped: list[str] = []

    def reap() -> None:
        began.wait()
        time.sleep(1.2 * seconds)
        with database.begin() as session:
            found = Leases(session).expire_overdue()
        reaped.extend(found)

    reaper = threading.Thread(target=reap)
    reaper.start()
    with database.begin() as session:
        guard(session, lease)
        began.set()
        time.sleep(1.8 * seconds)  # the lease runs out meanwhile, and the reaper is there
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(step=7))
        assert reaped == []
    reaper.join()
    with database.begin() as session:
        reaped.extend(Leases(session).expire_overdue())
    assert reaped == [job_id]
    assert (job_of(database, job_id).step, job_of(database, job_id).status) == (7, JobStatus.QUEUED)


@pytest.mark.postgres
def test_a_worker_that_freezes_within_a_transaction_is_waited_for_no_longer_than_others_can_bear(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks would keep the reaper from its attempt, and callers from its job, for as long as it is frozen."""
    monkeypatch.setattr("sgg_store.database.IDLE_SECONDS", 3.0)
    frozen, others = Database(postgres_url), Database(postgres_url)
    with others.begin() as session:
        ensure_project(session)
        job_id = add_job(session).id
    lease = claim(others, job_id, 2.0).lease
    with pytest.raises(DatabaseUnavailableError), frozen.begin() as session:
        guard(session, lease)
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(step=1))
        with others.begin() as session_of_a_caller:
            Jobs(session_of_a_caller).request_cancel(DEFAULT_PROJECT_ID, job_id)  # waits
        with others.begin() as session_of_the_reaper:
            assert Leases(session_of_the_reaper).expire_overdue() == [job_id]
        session.execute(select(1))
    assert job_of(others, job_id).status is JobStatus.CANCELLED
    for database in (frozen, others):
        database.dispose()


def test_doorbells_ring_by_priority_and_ever_more_rarely(database: Database) -> None:
    with database.begin() as session:
        low = add_job(session).id
        high = add_job(session, priority=1).id
        assert Doorbells(session).due_for_ring() == []  # the submitter rings first
    with database.begin() as session:
        Doorbells(session).ring_all_again()
    with database.begin() as session:
        assert Doorbells(session).due_for_ring() == [high, low]
        assert Doorbells(session).due_for_ring(limit=1) == [high]
        waits = []
        for _ in range(7):
            session.execute(update(JobRecord).where(JobRecord.id == high).values(next_ring_at=database_now()))
            for _ in range(2):  # another dispatcher that found it due at the same moment
                Doorbells(session).mark_rung(high)
            due = session.execute(select(JobRecord.next_ring_at - database_now()).where(JobRecord.id == high))
            waits.append(round(due.scalar_one()))
        assert waits == [4, 8, 16, 32, 60, 60, 60]
        assert Doorbells(session).due_for_ring() == [low]
    claim(database, low)
    with database.begin() as session:
        Doorbells(session).mark_rung(low)
        Doorbells(session).mark_rung("ftjob-unknown")
        assert Doorbells(session).due_for_ring() == []


def test_events_are_numbered_without_gaps_also_by_concurrent_writers(database: Database, job_id: str) -> None:
    lease = claim(database, job_id).lease

    def write() -> None:
        for _ in range(5):
            with database.begin() as session:
                Events(session).append(lease, [NewEvent("a"), NewEvent("b")])

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        seqs = session.scalars(select(EventRecord.seq).where(EventRecord.job_id == job_id).order_by(EventRecord.seq))
        assert list(seqs) == list(range(1, 33))
