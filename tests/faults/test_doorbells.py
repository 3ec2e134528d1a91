"""The broker loses, doubles and invents messages: every job runs, and runs once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from celery import Celery

from sgg_store.failpoints import Failpoint
from sgg_store.job_state import JobStatus
from sgg_store.queue import QUEUE_JOBS, TASK_RUN_JOB, make_celery, ring
from sgg_store.settings import StoreSettings
from tests.faults.conftest import Servers
from tests.faults.site import FEW_STEPS, Site
from tests.tcp_proxy import TcpProxy
from worker.testing import eventually


def broker_number(site: Site) -> int:
    return int(site.environment["SGG_BROKER_URL"].rpartition("/")[2])


@pytest.fixture
def bell(team: Site) -> Iterator[Celery]:
    """Rings the doorbell of the deployment on servers."""
    app = make_celery(StoreSettings(broker_url=team.environment["SGG_BROKER_URL"]))
    yield app
    app.close()


def test_fifty_equal_doorbells_make_one_attempt(team: Site, servers: Servers, bell: Celery) -> None:
    team.arm(Failpoint.JOB_COMMITTED, "hold")
    with team.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/fine_tuning/jobs", json=team.request(FEW_STEPS), timeout=0.5)
    team.wait_until_fired(Failpoint.JOB_COMMITTED)
    job_id = team.bench.jobs()[-1].id
    for _ in range(50):
        ring(bell, job_id)
    team.release(Failpoint.JOB_COMMITTED)
    assert len(team.assert_whole(job_id, FEW_STEPS)) == 1
    with servers.redis.client(broker_number(team)) as client:
        eventually(lambda: client.llen(QUEUE_JOBS) == 0)


def test_a_broker_that_dies_and_forgets_loses_no_job(team: Site, servers: Servers) -> None:
    running = team.begin(5)
    queued = [team.submit(FEW_STEPS) for _ in range(5)]
    with servers.redis.client(broker_number(team)) as client:
        client.set("memory", "fresh")
    servers.redis.kill()
    servers.redis.start()
    with servers.redis.client(broker_number(team)) as client:
        assert client.get("memory") is None
    assert any(team.bench.job(job_id).status is JobStatus.QUEUED for job_id in queued)  # and nobody knows but the rows
    assert len(team.assert_whole(running)) == 1
    for job_id in queued:
        assert len(team.assert_whole(job_id, FEW_STEPS)) == 1


def test_jobs_are_accepted_while_the_broker_is_down(team: Site, servers: Servers) -> None:
    servers.redis.kill()
    began = time.monotonic()
    job_id = team.submit(FEW_STEPS)
    assert time.monotonic() - began < 10
    time.sleep(1.0)
    assert team.bench.job(job_id).status is JobStatus.QUEUED
    servers.redis.start()
    assert len(team.assert_whole(job_id, FEW_STEPS)) == 1


def test_connections_that_die_without_a_word_are_given_up(second_team: Site, proxy: TcpProxy) -> None:
    second_team.assert_whole(second_team.submit(FEW_STEPS), FEW_STEPS)
    assert proxy.silence() >= 4  # the API's connection and the worker's, both ends of each
    began = time.monotonic()
    job_id = second_team.submit(FEW_STEPS)
    assert time.monotonic() - began < 8  # a caller does not wait for the whole of a dead connection's time
    assert len(second_team.assert_whole(job_id, FEW_STEPS)) == 1
    assert time.monotonic() - began < 60
    assert proxy.swallowed_bytes > 0


def test_doorbells_that_mean_nothing_do_nothing(team: Site, servers: Servers, bell: Celery) -> None:
    finished, cancelled = team.submit(FEW_STEPS), team.submit()
    team.cancel(cancelled)
    team.assert_whole(finished, FEW_STEPS)
    team.bench.wait_for_end(cancelled)
    attempts = [len(team.bench.attempts(job_id)) for job_id in (finished, cancelled)]
    for job_id in (
        finished,
        cancelled,
        "ftjob-ffffffffffffffffffffffff",
        "../../etc/passwd",
        "",
        "ftjob-" + "x" * 5000,
    ):
        ring(bell, job_id)
    for arguments in ([], [1], [None], [{"id": finished}], [finished, finished]):
        bell.send_task(TASK_RUN_JOB, args=arguments, queue=QUEUE_JOBS)
    bell.send_task("os.system", args=["true"], queue=QUEUE_JOBS)
    with servers.redis.client(broker_number(team)) as client:
        for garbage in (b"", b"\xff\xfe", b"null", b"[]", b"{}", b'{"body": "?", "properties": {}}', b"x" * 100_000):
            client.lpush(QUEUE_JOBS, garbage)
        after = team.submit(FEW_STEPS)
        assert len(team.assert_whole(after, FEW_STEPS)) == 1
        eventually(lambda: client.llen(QUEUE_JOBS) == 0)
    assert all(worker.alive for worker in team.workers)
    assert attempts == [len(team.bench.attempts(job_id)) for job_id in (finished, cancelled)]
