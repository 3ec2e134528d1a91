"""Pausing and resuming over HTTP, also by OpenAI's own client, which repeats what it thinks may still work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from api.testing import ApiServer
from sgg_store.leases import Leases

RESULTS = {"metrics.csv": b"step\n1\n", "adapter.tar.gz": b"\x1f\x8b bundle"}


def steer(server: ApiServer, job_id: str, verb: str) -> httpx.Response:
    with server.http() as http:
        return http.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}", headers={"content-type": "application/json"})


def refusal(response: httpx.Response) -> str:
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_job_status")
    return str(error["message"])


def test_a_queued_job_is_paused_at_once_and_resumed(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    job = steer(api_server, job_id, "pause").json()
    assert (job["status"], job["finished_at"], job["error"]) == ("paused", None, None)
    assert (job["sgg"]["queue_position"], job["sgg"]["last_checkpoint"]) == (None, None)
    assert steer(api_server, job_id, "pause").json()["status"] == "paused"
    api_server.rings.clear()
    assert steer(api_server, job_id, "resume").json()["status"] == "queued"
    assert api_server.rings == [job_id]


def test_a_running_job_pauses_when_its_worker_obeys_and_names_its_checkpoint(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.checkpoint(3)
    asked = steer(api_server, job_id, "pause").json()
    assert (asked["status"], asked["sgg"]["pause_requested"]) == ("running", True)
    with api_server.database.begin() as session:
        Leases(session).paused(worker.lease)
    job = api_server.job(job_id)
    assert (job["status"], job["sgg"]["pause_requested"]) == ("paused", False)
    with api_server.http() as http:
        checkpoint = http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"][0]
        told = http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][0]
    name = checkpoint["fine_tuned_model_checkpoint"]
    assert job["sgg"]["last_checkpoint"] == {"id": checkpoint["id"], "name": name, "step": 3}
    assert told["data"] == {"last_checkpoint_step": 3, "last_checkpoint": name} and name in told["message"]


def test_a_pause_is_withdrawn_without_ringing_any_doorbell(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    api_server.claim(job_id)
    steer(api_server, job_id, "pause")
    api_server.rings.clear()
    job = steer(api_server, job_id, "resume").json()
    assert (job["status"], job["sgg"]["pause_requested"], api_server.rings) == ("running", False, [])


def test_a_client_that_asks_again_for_want_of_an_answer_gets_it(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    for verb, first in (("resume", "pause"), ("cancel", "cancel")):
        asked = f"/v1/fine_tuning/jobs/{job_id}"
        with api_server.http() as http:
            http.post(f"{asked}/{first}").raise_for_status()
            done = http.post(f"{asked}/{verb}", headers={"x-stainless-retry-count": "0"})
            again = http.post(f"{asked}/{verb}", headers={"x-stainless-retry-count": "1"})
            anew = http.post(f"{asked}/{verb}")
        assert again.status_code == 200
        if first != verb:
            assert done.json()["status"] == again.json()["status"] == "queued"
        assert anew.status_code == 400 and again.json()["status"] == {"resume": "queued", "cancel": "cancelled"}[verb]
    assert api_server.rings == [job_id] * 3  # made, resumed, and asked again


def test_what_cannot_be_is_refused_in_words(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    assert "is queued and cannot be resumed. Only a paused job" in refusal(steer(api_server, job_id, "resume"))
    api_server.claim(job_id).succeed(RESULTS)
    assert "is succeeded and cannot be paused. A finished job" in refusal(steer(api_server, job_id, "pause"))
    assert "is succeeded and cannot be resumed" in refusal(steer(api_server, job_id, "resume"))
    for verb in ("pause", "resume"):
        assert steer(api_server, "ftjob-unknown", verb).status_code == 404


def test_pausing_needs_the_right_to_write(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    with api_server.http(api_server.new_key(["jobs:read"])) as http:
        for verb in ("pause", "resume"):
            assert http.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}").status_code == 403


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api_server.base_url, api_key=api_server.admin_key) as opened:
        yield opened


def test_openais_client_pauses_and_resumes(client: openai.OpenAI, api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert [job.status for job in client.fine_tuning.jobs.list()] == ["paused"]
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"


def test_openais_strict_client_sees_paused_after_a_pause_alone(api_server: ApiServer) -> None:
    """Its schema does not list `paused`, so no other job may have that status."""
    job_id, other = api_server.job_id(), api_server.job_id()
    options: dict[str, Any] = {"base_url": api_server.base_url, "api_key": api_server.admin_key}
    with openai.OpenAI(**options, _strict_response_validation=True) as strict:
        with pytest.raises(openai.APIResponseValidationError):
            strict.fine_tuning.jobs.pause(job_id)
        assert strict.fine_tuning.jobs.retrieve(other).status == "queued"
        assert strict.fine_tuning.jobs.resume(job_id).status == "queued"


def test_openais_client_does_not_repeat_what_was_refused(client: openai.OpenAI, api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    sent: list[httpx.Request] = []
    client._client.event_hooks["request"].append(sent.append)
    with pytest.raises(openai.BadRequestError, match="cannot be resumed"):
        client.fine_tuning.jobs.resume(job_id)
    assert len(sent) == 1
