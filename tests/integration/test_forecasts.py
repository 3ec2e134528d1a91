"""When jobs will start and end, and what became of their attempts."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import update

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.forecasts import FRESH_SECONDS
from sgg_store.leases import Leases
from sgg_store.records import JobRecord, MetricRecord
from sgg_store.retries import Cause

RESULTS = {"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"}


def test_nothing_is_told_before_anything_was_measured(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    forecast = api_server.job(job_id)["sgg"]["forecast"]  # it is the next one, and nobody knows how long it takes
    assert forecast["start"]["likely"] == pytest.approx(time.time(), abs=4) and forecast["end"] is None
    api_server.claim(job_id)
    assert api_server.job(job_id)["sgg"]["forecast"] is None


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_start_and_end_follow_from_steps_and_from_earlier_jobs(
    api_settings: ApiSettings, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with serving(api_settings.model_copy(update={"database_url": url})) as server:
        training_file = server.file_id()
        done, running, first, second = (server.job_id(training_file=training_file) for _ in range(4))
        server.claim(done).succeed(RESULTS)
        with server.database.begin() as session:
            session.execute(
                update(JobRecord).where(JobRecord.id == done).values(started_at=JobRecord.finished_at - 100)
            )
        worker = server.claim(running)
        for step in range(1, 5):
            worker.step(step)  # which took two seconds each, of ten steps
        time.sleep(FRESH_SECONDS)  # an outlook that was read before the steps is out of date then
        now = time.time()
        left = server.job(running)["sgg"]["forecast"]
        assert left["start"] is None and left["end"]["likely"] == pytest.approx(now + 6 * 2, abs=4)
        for place, job_id in enumerate((first, second)):
            told = server.job(job_id)["sgg"]
            assert told["queue_position"] == place + 1
            assert told["forecast"]["start"]["likely"] == pytest.approx(now + 12 + 100 * place, abs=6)
            assert told["forecast"]["end"]["likely"] == pytest.approx(now + 12 + 100 * (place + 1), abs=6)
            for spread in told["forecast"].values():
                assert spread["early"] <= spread["likely"] <= spread["late"]
        worker.succeed(RESULTS)
        assert server.job(running)["sgg"]["forecast"] is None


def test_a_rest_between_two_attempts_is_no_part_of_a_jobs_pace(api_server: ApiServer) -> None:
    day = 86_400.0
    training_file = api_server.file_id()
    rested, resuming, waiting = (api_server.job_id(training_file=training_file) for _ in range(3))

    def begin_and_rest(job_id: str) -> None:
        first = api_server.claim(job_id)
        first.step(1)
        first.step(2)
        with api_server.database.begin() as session:
            Leases(session).give_back(first.lease, Cause.PREEMPTED, "told to stop")
            session.execute(
                update(MetricRecord)
                .where(MetricRecord.job_id == job_id)
                .values(created_at=MetricRecord.created_at - 2 * day)
            )
            session.execute(update(JobRecord).where(JobRecord.id == job_id).values(started_at=time.time() - 2 * day))

    begin_and_rest(rested)
    api_server.claim(rested).succeed(RESULTS)
    begin_and_rest(resuming)
    worker = api_server.claim(resuming)
    for step in (3, 4):
        worker.step(step)
    time.sleep(FRESH_SECONDS)
    told = api_server.job(resuming)["sgg"]["forecast"]
    assert told["end"]["likely"] == pytest.approx(time.time() + 6 * 2, abs=4)
    assert api_server.job(waiting)["sgg"]["forecast"]["end"] is None  # no job has gone through without a rest


def test_attempts_are_told_with_cause_and_duration(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    assert api_server.job(job_id)["sgg"]["attempt_history"] == []
    first = api_server.claim(job_id)
    first.step(3)
    with api_server.database.begin() as session:
        Leases(session).give_back(first.lease, Cause.PREEMPTED, "told to stop")
    api_server.claim(job_id)
    lost, running = api_server.job(job_id)["sgg"]["attempt_history"]
    assert (lost["number"], lost["state"], lost["cause"], lost["last_step"]) == (1, "preempted", "preempted", 3)
    assert (running["number"], running["state"], running["cause"]) == (2, "running", None)
    assert 0 <= lost["seconds"] < 60 and 0 <= running["seconds"] < 60
    with api_server.http() as http:
        (listed,) = http.get("/v1/fine_tuning/jobs").json()["data"]
    assert listed["sgg"]["attempt_history"] is None and listed["sgg"]["attempts"] == 2
