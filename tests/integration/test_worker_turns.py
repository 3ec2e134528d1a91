"""A worker goes on from job to job without being told, in the order of turns, and obeys the quotas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from sgg_core.tiny import save_tiny_base
from sgg_store.errors import ObjectStoreUnavailableError
from sgg_store.job_state import JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.local_objects import LocalObjectStore
from sgg_store.projects import Projects
from sgg_store.queue import QUEUE_JOBS, make_celery, ring
from sgg_store.records import JobRecord
from sgg_store.retries import SPARE_RINGS
from sgg_store.workers import Presence, Workers
from worker.dispatcher import ring_due
from worker.run_job import JobRunner
from worker.supervisor import Supervisor
from worker.testing import Workbench

SPEC = {"optimization": {"max_steps": 2, "batch_size": 4}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    directory = tmp_path_factory.mktemp("turns")
    made = Workbench(directory / "data", save_tiny_base(directory / "tiny"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runner(bench: Workbench) -> Iterator[JobRunner]:
    supervisor = Supervisor()
    made = JobRunner(bench.settings, bench.database, bench.objects, supervisor, "w")
    yield made
    supervisor.stop()
    made.close()


def set_running_jobs(bench: Workbench, limit: int | None) -> None:
    with bench.database.begin() as session:
        Projects(session).change(DEFAULT_PROJECT_ID, quotas={"running_jobs": limit})


def test_one_doorbell_is_enough_for_all_that_wait_and_the_urgent_one_is_first(
    bench: Workbench, runner: JobRunner
) -> None:
    job_ids = [bench.submit(**SPEC) for _ in range(3)]
    gone = bench.submit(**SPEC)
    with bench.database.begin() as session:
        session.get_one(JobRecord, job_ids[2]).priority = 1
        session.get_one(JobRecord, gone).training_file_id = "file-gone"
        session.get_one(JobRecord, gone).priority = 2
    runner.run(job_ids[0])
    jobs = [bench.job(job_id) for job_id in job_ids]
    assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
    order = sorted(job_ids, key=lambda job_id: bench.job(job_id).started_at or 0)
    assert order == [job_ids[2], job_ids[0], job_ids[1]]
    assert bench.job(gone).status is JobStatus.FAILED


def rung(app: Celery) -> list[str]:
    """The jobs whose doorbells lie in the in-memory broker; takes them out."""
    found: list[str] = []
    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE_JOBS) as queue:
        while True:
            try:
                message = queue.get(block=False)
            except queue.Empty:
                return found
            found.append(message.payload[0][0])
            message.ack()


@pytest.mark.usefixtures("no_doorbells")
def test_a_project_without_room_is_neither_run_nor_rung(bench: Workbench, runner: JobRunner) -> None:
    job_id = bench.submit(**SPEC)
    with bench.database.begin() as session:
        session.get_one(JobRecord, job_id).next_ring_at = 0.0
    app = make_celery(bench.settings)
    set_running_jobs(bench, 0)
    runner.run(job_id)
    ring_due(app, bench.database, bench.settings.quotas)
    assert (bench.job(job_id).status, rung(app)) == (JobStatus.QUEUED, [])
    set_running_jobs(bench, None)
    ring_due(app, bench.database, bench.settings.quotas)
    assert rung(app) == [job_id]
    runner.run(job_id)
    assert bench.job(job_id).status is JobStatus.SUCCEEDED
    app.close()


class AbsentStore(LocalObjectStore):
    """One that does not answer."""

    def download(self, key: str, path: Path) -> None:
        raise ObjectStoreUnavailableError("It does not answer.")


def test_a_jobs_old_doorbells_do_not_shorten_the_wait_after_a_failed_attempt(bench: Workbench) -> None:
    supervisor = Supervisor()
    runner = JobRunner(bench.settings, bench.database, AbsentStore(bench.settings.data_dir), supervisor, "w")
    job_id = bench.submit(**SPEC)
    for _ in range(5):
        runner.run(job_id)
    assert (bench.job(job_id).status, len(bench.attempts(job_id))) == (JobStatus.QUEUED, 1)
    bench.cancel(job_id)
    supervisor.stop()
    runner.close()


def test_a_worker_does_not_go_on_with_the_next_job_after_an_attempt_that_was_cut_short(bench: Workbench) -> None:
    supervisor = Supervisor()
    runner = JobRunner(bench.settings, bench.database, AbsentStore(bench.settings.data_dir), supervisor, "w")
    job_ids = [bench.submit(**SPEC) for _ in range(2)]
    runner.run(job_ids[0])
    assert [len(bench.attempts(job_id)) for job_id in job_ids] == [1, 0]
    for job_id in job_ids:
        bench.cancel(job_id)
    supervisor.stop()
    runner.close()


@pytest.mark.usefixtures("no_doorbells")
def test_no_more_doorbells_wait_to_be_answered_than_workers_can_need(bench: Workbench) -> None:
    job_ids = [bench.submit(**SPEC) for _ in range(SPARE_RINGS + 4)]
    with bench.database.begin() as session:
        for job_id in job_ids:
            session.get_one(JobRecord, job_id).next_ring_at = 0.0
        for name in ("busy", "idle"):
            Workers(session).enter(Presence(name, "here", 1, "0"))
    app = make_celery(bench.settings)
    ring(app, "ftjob-before")
    for _ in range(3):
        ring_due(app, bench.database, bench.settings.quotas)
    assert rung(app) == ["ftjob-before", *job_ids[: SPARE_RINGS + 1]]
    ring_due(app, bench.database, bench.settings.quotas)  # those that were left out were still due
    assert rung(app) == job_ids[SPARE_RINGS + 1 :]
    for job_id in job_ids:
        bench.cancel(job_id)
    app.close()
