"""Requests whose answers never arrive, and cancellations at the worst moment."""

from __future__ import annotations

import signal

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import func, select

from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.records import JobRecord
from tests.faults.site import CHECKPOINT_EVERY, FEW_STEPS, Site
from tests.tcp_proxy import TcpProxy

JOBS = "/v1/fine_tuning/jobs"


def count_jobs(site: Site) -> int:
    with site.bench.database.read() as session:
        return session.execute(select(func.count()).select_from(JobRecord)).scalar_one()


def test_a_job_survives_an_api_that_dies_between_commit_and_doorbell(site: Site) -> None:
    body, header = site.request(FEW_STEPS), {"Idempotency-Key": f"killed-{site.port}"}
    before = count_jobs(site)
    site.arm(Failpoint.JOB_COMMITTED, "kill")
    with site.http() as http, pytest.raises(httpx.TransportError):
        http.post(JOBS, json=body, headers=header)
    site.wait_until_fired(Failpoint.JOB_COMMITTED)
    assert site.api is not None and site.api.process.wait(10) == -signal.SIGKILL
    assert count_jobs(site) == before + 1
    site.start()
    with site.http() as http:
        answer = http.post(JOBS, json=body, headers=header)
    assert answer.status_code == 200 and count_jobs(site) == before + 1
    assert len(site.assert_whole(answer.json()["id"], FEW_STEPS)) == 1


def test_a_request_repeated_after_a_lost_answer_gives_the_same_job(site: Site) -> None:
    body, header = site.request(FEW_STEPS), {"Idempotency-Key": f"lost-{site.port}"}
    before = count_jobs(site)
    with TcpProxy(site.port) as proxy, site.http(f"http://127.0.0.1:{proxy.port}") as http:
        proxy.answers_to_lose = 1
        with pytest.raises(httpx.TransportError):
            http.post(JOBS, json=body, headers=header)
        assert proxy.swallowed_bytes > 0 and count_jobs(site) == before + 1
        again = http.post(JOBS, json=body, headers=header)
        other = http.post(JOBS, json=body | {"seed": 8}, headers=header)
    assert again.status_code == 200 and count_jobs(site) == before + 1
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len(site.assert_whole(again.json()["id"], FEW_STEPS)) == 1


def test_the_official_clients_own_retry_makes_no_second_job(site: Site) -> None:
    body = site.request(FEW_STEPS) | {"suffix": "retried"}
    before = count_jobs(site)
    with (
        TcpProxy(site.port) as proxy,
        OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=site.key, max_retries=2) as client,
    ):
        proxy.answers_to_lose = 1
        job = client.fine_tuning.jobs.create(**body)
        assert proxy.swallowed_bytes > 0
    assert count_jobs(site) == before + 1
    assert len(site.assert_whole(job.id, FEW_STEPS)) == 1


def test_a_queued_job_is_cancelled_at_once_and_its_doorbell_means_nothing(site: Site) -> None:
    site.arm(Failpoint.JOB_COMMITTED, "hold")
    with site.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post(JOBS, json=site.request(), timeout=0.5)
    site.wait_until_fired(Failpoint.JOB_COMMITTED)
    with site.bench.database.read() as session:
        job_id = session.scalars(select(JobRecord.id).order_by(JobRecord.created_at.desc()).limit(1)).one()
    assert site.cancel(job_id) == 200
    site.release(Failpoint.JOB_COMMITTED)  # rings now
    assert site.bench.job(job_id).status is JobStatus.CANCELLED
    site.assert_whole(site.submit(FEW_STEPS), FEW_STEPS)  # someone has come by since
    assert site.bench.attempts(job_id) == []


@pytest.mark.parametrize(
    ("failpoint", "checkpoint"),
    [
        (Failpoint.JOB_CLAIMED, 0),
        (Failpoint.CHECKPOINT_HALF_STORED, CHECKPOINT_EVERY),
        (Failpoint.CHECKPOINT_STORED, CHECKPOINT_EVERY),
    ],
)
def test_a_cancellation_in_any_phase_of_an_attempt_is_obeyed(site: Site, failpoint: Failpoint, checkpoint: int) -> None:
    site.arm(failpoint, "hold")
    job_id = site.submit(200)  # more than are trained until the worker asks again, in a second
    site.wait_until_fired(failpoint)
    assert site.cancel(job_id) == 200
    assert site.bench.job(job_id).status is JobStatus.RUNNING
    site.release(failpoint)
    assert site.bench.wait_for_end(job_id).status is JobStatus.CANCELLED
    [attempt] = site.bench.attempts(job_id)
    assert attempt.state is AttemptState.CANCELLED
    kept = site.bench.events(job_id)[-1].data["last_checkpoint_step"] or 0
    assert kept >= checkpoint
    assert site.cancel(job_id) == 400


def test_a_cancellation_that_races_the_end_loses_nothing(site: Site) -> None:
    site.arm(Failpoint.RESULT_STORED, "hold")
    job_id = site.submit(FEW_STEPS)
    site.wait_until_fired(Failpoint.RESULT_STORED)
    assert site.cancel(job_id) == 200
    site.release(Failpoint.RESULT_STORED)
    assert len(site.assert_whole(job_id, FEW_STEPS)) == 1  # the result was there, so it counts
    assert site.cancel(job_id) == 400
