"""The worker loses its right to a job, or cannot know whether it has it: it stops its trainer and writes nothing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from sqlalchemy import update

from sgg_store.doorbells import Doorbells
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.leases import Leases
from sgg_store.records import AttemptRecord
from sgg_store.retries import Cause
from tests.faults.running import lives
from worker.run_job import JobRunner
from worker.supervisor import Supervisor
from worker.testing import Workbench, eventually

MakeBench = Callable[..., Workbench]


@contextmanager
def runner_with_trainer(bench: Workbench, owner: str) -> Iterator[tuple[JobRunner, Supervisor]]:
    supervisor = Supervisor()
    supervisor.start(bench.base_model)
    runner = JobRunner(bench.settings, bench.database, bench.objects, supervisor, owner)
    try:
        yield runner, supervisor
    finally:
        runner.drain()
        supervisor.stop()
        runner.close()


def in_thread(runner: JobRunner, job_id: str) -> threading.Thread:
    thread = threading.Thread(target=runner.run, args=(job_id,))
    thread.start()
    return thread


def test_a_worker_that_lost_its_lease_writes_nothing_more(make_bench: MakeBench) -> None:
    bench = make_bench(lease_seconds=6)
    with runner_with_trainer(bench, "first") as (runner, supervisor):
        job_id = bench.submit_steps(100_000, 10)
        thread = in_thread(runner, job_id)
        bench.wait_for_step(job_id, 12)
        assert supervisor.pid is not None
        trainer = psutil.Process(supervisor.pid)
        with bench.database.begin() as session:
            session.execute(update(AttemptRecord).values(lease_expires_at=0.0))
            assert Leases(session).expire_overdue() == [job_id]
        steps, events = bench.steps(job_id), bench.events(job_id)
        thread.join(60)
        assert not thread.is_alive()
        assert not lives(trainer)
        assert bench.steps(job_id) == steps
        assert [event.seq for event in bench.events(job_id)] == [event.seq for event in events]
        assert bench.job(job_id).status is JobStatus.QUEUED
        assert [attempt.state for attempt in bench.attempts(job_id)] == [AttemptState.LOST]


def test_two_workers_at_one_doorbell_make_one_attempt(make_bench: MakeBench) -> None:
    bench = make_bench()
    with runner_with_trainer(bench, "first") as (first, _), runner_with_trainer(bench, "second") as (second, _):
        job_id = bench.submit_steps(20, 10)
        threads = [in_thread(runner, job_id) for runner in (first, second)]
        for thread in threads:
            thread.join(120)
        assert bench.job(job_id).status is JobStatus.SUCCEEDED
        assert len(bench.attempts(job_id)) == 1


def test_a_worker_without_its_database_stops_its_trainer_before_the_lease_ends(make_bench: MakeBench) -> None:
    bench = make_bench(lease_seconds=8, heartbeat_seconds=0.4, self_fence_seconds=4)
    with runner_with_trainer(bench, "first") as (runner, supervisor):
        job_id = bench.submit_steps(100_000, 10)
        thread = in_thread(runner, job_id)
        bench.wait_for_step(job_id, 12)
        assert supervisor.pid is not None
        trainer = psutil.Process(supervisor.pid)
        with bench.database.begin() as session:
            Doorbells(session).ring_all_again()  # holds the write lock: nobody else can write, as if the database hung
            expiry = bench.attempts(job_id)[0].lease_expires_at
            eventually(lambda: not lives(trainer), 20)
            assert bench.database.now() < expiry
        thread.join(60)
        assert not thread.is_alive()
        [attempt] = bench.attempts(job_id)
        assert (attempt.state, attempt.cause) == (AttemptState.FAILED, Cause.DATABASE)
        assert bench.job(job_id).status is JobStatus.QUEUED
