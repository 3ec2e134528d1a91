"""Pausing and resuming on both databases: who may, when, and what wins in a race."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import ORMExecuteState

from sgg_store.attempts import Lease
from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.doorbells import Doorbells
from sgg_store.errors import DatabaseUnavailableError, FileInUseError, RecordNotFoundError, TransitionError
from sgg_store.events import Events
from sgg_store.files import Files
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.job_views import JobViews
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import JobResult, Leases
from sgg_store.records import AttemptRecord, JobRecord
from sgg_store.retries import Cause
from sgg_store.testing import add_job

RESULT = JobResult(fine_tuned_model="ft:tiny:default::1", trained_tokens=10, result_file_ids=())


@pytest.fixture
def job_id(database: Database) -> str:
    with database.begin() as session:
        return add_job(session).id


@pytest.fixture
def lease(database: Database, job_id: str) -> Lease:
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "w")
    assert claim is not None
    return claim.lease


def pause(database: Database, job_id: str) -> JobRecord:
    with database.begin() as session:
        return Jobs(session).request_pause(DEFAULT_PROJECT_ID, job_id)


def resume(database: Database, job_id: str) -> JobRecord:
    with database.begin() as session:
        return Jobs(session).resume(DEFAULT_PROJECT_ID, job_id)


def cancel(database: Database, job_id: str) -> JobRecord:
    with database.begin() as session:
        return Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)


def status(database: Database, job_id: str) -> JobStatus:
    with database.read() as session:
        return Jobs(session).get(DEFAULT_PROJECT_ID, job_id).status


def messages(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [event.message for event in Events(session).since(DEFAULT_PROJECT_ID, job_id, 0)]


def last_attempt(database: Database, job_id: str) -> AttemptRecord:
    with database.read() as session:
        query = select(AttemptRecord).where(AttemptRecord.job_id == job_id).order_by(AttemptRecord.number.desc())
        return session.scalars(query.limit(1)).one()


def test_a_queued_job_is_paused_at_once_and_waits_until_it_is_resumed(database: Database, job_id: str) -> None:
    assert pause(database, job_id).status is JobStatus.PAUSED
    assert messages(database, job_id)[-1] == "The job is paused. Resume it, and it goes on from the beginning."
    with database.begin() as session:
        Doorbells(session).ring_all_again()
        assert Doorbells(session).due_for_ring() == []
        assert Leases(session).claim(job_id, "w") is None
        assert Leases(session).expire_overdue() == []
        view = JobViews(session).get(DEFAULT_PROJECT_ID, job_id)
        assert (view.place, view.job.finished_at) == (None, None)
    assert resume(database, job_id).status is JobStatus.QUEUED
    with database.begin() as session:
        assert Leases(session).claim(job_id, "w") is not None


def test_a_running_job_is_asked_to_pause_and_goes_on_from_where_it_stopped(database: Database, lease: Lease) -> None:
    for _ in range(2):
        assert pause(database, lease.job_id).status is JobStatus.RUNNING
    with database.begin() as session:
        signals = Leases(session).heartbeat(lease)
        assert (signals.cancel_requested, signals.pause_requested, signals.wish) == (False, True, "pause")
        assert Leases(session).signals(lease) == signals
        Checkpoints(session).append(lease, 7, "prefix", {}, {})
        assert Leases(session).paused(lease) is JobStatus.PAUSED
    name = f"ft:tiny:default::{lease.job_id[-12:]}:ckpt-step-7"
    assert messages(database, lease.job_id)[2:] == [
        "A pause was requested.",
        f"The job is paused. Resume it, and it goes on from {name}, exactly as it was.",
    ]
    assert last_attempt(database, lease.job_id).state is AttemptState.PAUSED
    assert pause(database, lease.job_id).status is JobStatus.PAUSED  # as often as one likes
    resumed = resume(database, lease.job_id)
    assert (resumed.status, resumed.pause_requested) == (JobStatus.QUEUED, False)
    with database.begin() as session:
        claim = Leases(session).claim(lease.job_id, "w")
        assert claim is not None and claim.checkpoint is not None
        assert claim.checkpoint.step == 7
        assert Leases(session).heartbeat(claim.lease).wish is None


def test_pauses_do_not_use_up_any_budget(database: Database, job_id: str) -> None:
    for _ in range(6):
        with database.begin() as session:
            claim = Leases(session).claim(job_id, "w")
        assert claim is not None
        pause(database, job_id)
        with database.begin() as session:
            assert Leases(session).paused(claim.lease) is JobStatus.PAUSED
        resume(database, job_id)
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "w")
        assert claim is not None
        assert Leases(session).give_back(claim.lease, Cause.CRASHED) is JobStatus.QUEUED


def test_a_paused_job_can_be_cancelled_and_names_its_checkpoint(database: Database, lease: Lease) -> None:
    pause(database, lease.job_id)
    with database.begin() as session:
        Checkpoints(session).append(lease, 7, "prefix", {}, {})
        Leases(session).paused(lease)
    assert cancel(database, lease.job_id).status is JobStatus.CANCELLED
    assert messages(database, lease.job_id)[-1].endswith(":ckpt-step-7.")


def test_a_paused_job_keeps_its_files(database: Database, job_id: str) -> None:
    file_id = pause(database, job_id).training_file_id
    with pytest.raises(FileInUseError, match=job_id), database.begin() as session:
        Files(session).delete(DEFAULT_PROJECT_ID, file_id)


def test_only_a_paused_job_can_be_resumed(database: Database, job_id: str) -> None:
    with pytest.raises(TransitionError, match="is queued and cannot be resumed"):
        resume(database, job_id)
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "w")
    assert claim is not None
    with pytest.raises(TransitionError, match=r"is running and cannot be resumed.*goes on by itself"):
        resume(database, job_id)
    with database.begin() as session:
        Leases(session).succeed(claim.lease, RESULT)
    with pytest.raises(TransitionError, match="is succeeded and cannot be resumed"):
        resume(database, job_id)
    with pytest.raises(TransitionError, match=r"is succeeded and cannot be paused.*submit a new one"):
        pause(database, job_id)


def test_jobs_of_other_projects_are_not_found(database: Database, job_id: str) -> None:
    with database.begin() as session:
        for steer in (Jobs(session).request_pause, Jobs(session).resume):
            with pytest.raises(RecordNotFoundError):
                steer("proj-other", job_id)


def test_a_pause_is_withdrawn_by_resuming_before_it_began(database: Database, lease: Lease) -> None:
    pause(database, lease.job_id)
    assert resume(database, lease.job_id).status is JobStatus.RUNNING
    with database.begin() as session:
        assert Leases(session).heartbeat(lease).wish is None


def test_a_job_that_stopped_for_a_withdrawn_pause_is_queued_again(database: Database, lease: Lease) -> None:
    pause(database, lease.job_id)
    resume(database, lease.job_id)
    with database.begin() as session:
        assert Leases(session).paused(lease) is JobStatus.QUEUED
        assert Doorbells(session).due_for_ring() == [lease.job_id]


def test_cancellation_wins_over_a_pause(database: Database, lease: Lease) -> None:
    pause(database, lease.job_id)
    cancel(database, lease.job_id)
    with database.begin() as session:
        assert Leases(session).heartbeat(lease).wish == "cancel"
    for steer in (pause, resume):
        with pytest.raises(TransitionError, match="is being cancelled"):
            steer(database, lease.job_id)
    with database.begin() as session:
        assert Leases(session).paused(lease) is JobStatus.CANCELLED


def test_a_result_wins_over_a_pause(database: Database, lease: Lease) -> None:
    pause(database, lease.job_id)
    with database.begin() as session:
        Leases(session).succeed(lease, RESULT)
    with database.read() as session:
        job = Jobs(session).get(DEFAULT_PROJECT_ID, lease.job_id)
    assert (job.status, job.pause_requested) == (JobStatus.SUCCEEDED, False)


@pytest.mark.parametrize("cause", [Cause.LOST, Cause.PREEMPTED, Cause.DATABASE, Cause.CRASHED])
def test_an_attempt_that_ends_otherwise_leaves_its_job_paused_if_that_was_asked(
    database: Database, lease: Lease, cause: Cause
) -> None:
    pause(database, lease.job_id)
    with database.begin() as session:
        assert Leases(session).give_back(lease, cause) is JobStatus.PAUSED
    assert last_attempt(database, lease.job_id).cause is cause


def test_a_lost_lease_leaves_its_job_paused_if_that_was_asked(database: Database, job_id: str) -> None:
    with database.begin() as session:
        assert Leases(session, 0.1).claim(job_id, "w")
    pause(database, job_id)
    time.sleep(0.15)
    with database.begin() as session:
        assert Leases(session).expire_overdue() == [job_id]
    assert status(database, job_id) is JobStatus.PAUSED


def test_a_job_whose_budget_is_used_up_fails_instead_of_resting(database: Database, job_id: str) -> None:
    for expected in (JobStatus.QUEUED, JobStatus.FAILED):
        with database.begin() as session:
            claim = Leases(session).claim(job_id, "w")
        assert claim is not None
        if expected is JobStatus.FAILED:
            pause(database, job_id)
        with database.begin() as session:
            assert Leases(session).give_back(claim.lease, Cause.CRASHED) is expected


@pytest.mark.parametrize("ending", ["paused", "succeed", "give_back"])
def test_wishes_at_the_moment_of_an_ending_are_obeyed_or_refused_but_never_lost(
    database: Database, ending: str
) -> None:
    """Callers and the worker's ending meet in a race: whoever was told yes sees it come true."""
    for _ in range(10):
        with database.begin() as session:
            claim = Leases(session).claim(add_job(session).id, "w")
            assert claim is not None
        lease, told_yes, barrier = claim.lease, [], threading.Barrier(2)

        def ask(lease: Lease = lease, told_yes: list[str] = told_yes, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                cancel(database, lease.job_id)
                told_yes.append("cancel")
            except TransitionError:
                pass

        pause(database, lease.job_id)
        asking = threading.Thread(target=ask)
        asking.start()
        barrier.wait()
        with database.begin() as session:
            if ending == "succeed":
                result = JobResult(fine_tuned_model=f"ft:{lease.job_id}", trained_tokens=1, result_file_ids=())
                Leases(session).succeed(lease, result)
            elif ending == "paused":
                Leases(session).paused(lease)
            else:
                Leases(session).give_back(lease, Cause.PREEMPTED)
        asking.join()
        ended = status(database, lease.job_id)
        if ending == "succeed":
            assert ended is JobStatus.SUCCEEDED
        else:
            assert told_yes == ["cancel"]
            assert ended is JobStatus.CANCELLED


@pytest.mark.postgres
@pytest.mark.parametrize("ending", ["paused", "give_back"])
def test_a_pause_that_is_asked_for_while_an_attempts_end_is_written_is_never_lost(
    postgres_url: str, ending: str
) -> None:
    database = Database(postgres_url)
    with database.begin() as session:
        claim = Leases(session).claim(add_job(session).id, "w")
    assert claim is not None
    job_id = claim.lease.job_id
    asking = threading.Thread(target=pause, args=(database, job_id))

    def ask_meanwhile(state: ORMExecuteState) -> None:
        """Ask between the ending's look at the job's wishes and its change of the job, which nobody else can change."""
        if state.is_update and state.bind_mapper is not None and state.bind_mapper.class_ is JobRecord:
            as_any_update = select(JobRecord.id).with_for_update(nowait=True, key_share=True)
            with pytest.raises(DatabaseUnavailableError, match="could not obtain lock"), database.begin() as other:
                other.execute(as_any_update)
            asking.start()

    with database.begin() as session:
        event.listen(session, "do_orm_execute", ask_meanwhile)
        if ending == "paused":
            Leases(session).paused(claim.lease)
        else:
            Leases(session).give_back(claim.lease, Cause.PREEMPTED)
    asking.join()
    assert status(database, job_id) is JobStatus.PAUSED
    database.dispose()
