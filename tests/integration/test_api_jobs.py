"""The life of a job as its caller sees it, while a worker writes about it under a lease."""

from __future__ import annotations

import time
from typing import Any

import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.errors import BrokerUnavailableError
from sgg_store.retries import SPARE_RINGS, Cause

RESULTS = {"metrics.csv": b"step,train_loss\n1,1.0\n", "adapter.tar.gz": b"\x1f\x8b bundle"}


def pages(server: ApiServer, path: str, limit: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    with server.http() as http:
        while True:
            after = {"after": items[-1]["id"]} if items else {}
            page = http.get(path, params={"limit": limit} | after).json()
            assert page["object"] == "list" and len(page["data"]) <= limit
            items += page["data"]
            if not page["has_more"]:
                return items


def test_a_running_job_shows_its_progress(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.step(4)
    job = api_server.job(job_id)
    assert (job["status"], job["finished_at"], job["fine_tuned_model"]) == ("running", None, None)
    known = job["sgg"]
    assert (known["step"], known["total_steps"], known["progress"], known["attempts"]) == (4, 10, 0.4, 1)
    assert (known["metrics"]["train_loss"], known["metrics"]["valid_loss"]) == (0.25, 0.5)
    assert (known["queue_position"], known["kind"]) == (None, "classification")
    assert job["estimated_finish"] == pytest.approx(time.time() + 6 * 2, abs=5)


def test_a_succeeded_job_names_its_model_and_its_files(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.step(4)
    model = worker.succeed(RESULTS, train_loss=0.5, valid_loss=0.4)
    job = api_server.job(job_id)
    assert (job["status"], job["fine_tuned_model"], job["trained_tokens"]) == ("succeeded", model, 123)
    assert job["finished_at"] >= job["created_at"] and job["error"] is None
    assert job["sgg"]["progress"] == 1.0
    figures = job["sgg"]["metrics"]  # of the weights that were kept, where these are known
    assert (figures["step"], figures["train_loss"], figures["valid_loss"]) == (4, 0.5, 0.4)
    assert [artifact["file_id"] for artifact in job["sgg"]["artifacts"]] == job["result_files"]
    with api_server.http() as http:
        for artifact, (name, content) in zip(job["sgg"]["artifacts"], RESULTS.items(), strict=True):
            assert (artifact["filename"], artifact["bytes"]) == (name, len(content))
            assert http.get(f"/v1/files/{artifact['file_id']}/content").content == content
        listed = http.get("/v1/files", params={"purpose": "fine-tune-results"}).json()["data"]
    assert {file["id"] for file in listed} == set(job["result_files"])


@pytest.mark.parametrize(
    ("code", "cause", "fault"),
    [("training_diverged", Cause.USER, "user"), ("internal_error", Cause.INTERNAL, "service")],
)
def test_a_failed_job_says_why_whose_fault_it_is_and_what_to_do(
    api_server: ApiServer, code: str, cause: Cause, fault: str
) -> None:
    job_id = api_server.job_id()
    api_server.claim(job_id).fail(code, "It broke. Do this.", cause)
    job = api_server.job(job_id)
    assert (job["status"], job["error"]) == ("failed", {"code": code, "message": "It broke. Do this.", "param": None})
    failure = job["sgg"]["failure"]
    assert (failure["code"], failure["fault"]) == (code, fault) and failure["remedy"]


def test_there_is_nothing_to_download_while_a_job_runs(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    job = api_server.job(job_id)
    assert (job["result_files"], job["sgg"]["artifacts"]) == ([], [])
    with api_server.http() as http:
        response = http.get(f"/v1/files/{job_id}/content")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    worker.succeed(RESULTS)
    assert len(api_server.job(job_id)["result_files"]) == 2


def test_a_queued_job_is_cancelled_at_once(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    with api_server.http() as http:
        job = http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()
    assert (job["status"], job["id"]) == ("cancelled", job_id) and job["finished_at"]


def test_a_running_job_is_cancelled_by_its_worker(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    with api_server.http() as http:
        asked = http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()
        assert (asked["status"], asked["sgg"]["cancel_requested"]) == ("running", True)
        assert http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200
    worker.stop()
    assert api_server.job(job_id)["status"] == "cancelled"


@pytest.mark.parametrize("headers", [{}, {"x-stainless-retry-count": "1"}], ids=["first", "retry"])
def test_a_finished_job_cannot_be_cancelled(api_server: ApiServer, headers: dict[str, str]) -> None:
    succeeded, failed = api_server.job_id(), api_server.job_id()
    api_server.claim(succeeded).succeed(RESULTS)
    api_server.claim(failed).fail("training_diverged", "NaN")
    for job_id, status in ((succeeded, "succeeded"), (failed, "failed")):
        with api_server.http() as http:
            response = http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel", headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_job_status")
        assert status in error["message"] and "submit a new one" in error["message"]


def test_queue_positions_count_the_jobs_before(api_server: ApiServer) -> None:
    training_file = api_server.file_id()
    jobs = [api_server.job_id(training_file=training_file) for _ in range(3)]
    assert [api_server.job(job_id)["sgg"]["queue_position"] for job_id in jobs] == [1, 2, 3]
    api_server.claim(jobs[0])
    assert [api_server.job(job_id)["sgg"]["queue_position"] for job_id in jobs] == [None, 1, 2]


def test_jobs_are_listed_newest_first_and_filtered_by_metadata(api_server: ApiServer) -> None:
    training_file = api_server.file_id()
    made = [
        api_server.job_id(training_file=training_file, metadata={"parity": str(index % 2), "a b&[x]": f"ü={index}"})
        for index in range(5)
    ]
    assert [job["id"] for job in pages(api_server, "/v1/fine_tuning/jobs", 2)] == made[::-1]
    with api_server.http() as http:
        for params, expected in (
            ({"metadata[parity]": "1"}, [made[3], made[1]]),
            ({"metadata[parity]": "0", "metadata[a b&[x]]": "ü=2"}, [made[2]]),
            ({"metadata[parity]": "0", "metadata[none]": ""}, []),
        ):
            found = http.get("/v1/fine_tuning/jobs", params=params).json()
            assert [job["id"] for job in found["data"]] == expected
        page = http.get("/v1/fine_tuning/jobs", params={"metadata[parity]": "0", "limit": 2}).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == ([made[4], made[2]], True)
        for bad in ("metadata", "metadata[", "metadata[]"):
            response = http.get("/v1/fine_tuning/jobs", params={bad: "x"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "metadata")


def test_events_come_newest_first_without_gaps_or_repeats(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.say(*(f"message {index}" for index in range(7)))
    events = pages(api_server, f"/v1/fine_tuning/jobs/{job_id}/events", 3)
    assert [event["message"] for event in events[:7]] == [f"message {index}" for index in reversed(range(7))]
    assert len({event["id"] for event in events}) == len(events) == 9
    with api_server.http() as http:
        page = http.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 3}).json()
        worker.say("meanwhile")  # what comes in later does not shift the pages that follow
        rest = http.get(
            f"/v1/fine_tuning/jobs/{job_id}/events", params={"after": page["data"][-1]["id"], "limit": 100}
        ).json()
    assert page["data"] + rest["data"] == events and rest["has_more"] is False


def test_checkpoints_come_newest_first_under_names_of_models(api_server: ApiServer) -> None:
    job_id = api_server.job_id(suffix="my suffix")
    worker = api_server.claim(job_id)
    for step in (2, 4, 6):
        worker.checkpoint(step)
    path = f"/v1/fine_tuning/jobs/{job_id}/checkpoints"
    checkpoints = pages(api_server, path, 2)
    assert [checkpoint["step_number"] for checkpoint in checkpoints] == [6, 4, 2]
    newest = checkpoints[0]
    assert (newest["fine_tuning_job_id"], newest["metrics"]) == (job_id, {"step": 6, "train_loss": 1 / 6})
    name = newest["fine_tuned_model_checkpoint"]
    assert name == f"ft:smollm2-135m-instruct:default:my-suffix:{job_id[-12:]}:ckpt-step-6"
    with api_server.http() as http:
        page = http.get(path, params={"limit": 2}).json()
    assert (page["first_id"], page["last_id"]) == (checkpoints[0]["id"], checkpoints[1]["id"])


@pytest.mark.parametrize("part", ["", "/events", "/checkpoints", "/cancel"])
def test_an_unknown_job_is_not_found(api_server: ApiServer, part: str) -> None:
    with api_server.http() as http:
        response = http.request("POST" if part == "/cancel" else "GET", f"/v1/fine_tuning/jobs/ftjob-none{part}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("part", ["", "/{job}/events", "/{job}/checkpoints"])
@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": "nothing"}])
def test_bad_page_parameters_are_named(api_server: ApiServer, part: str, params: dict[str, Any]) -> None:
    path = part.format(job=api_server.job_id())
    with api_server.http() as http:
        response = http.get(f"/v1/fine_tuning/jobs{path}", params=params)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(params)))


def test_a_silent_doorbell_does_not_lose_the_job(api_settings: ApiSettings) -> None:
    def broken(job_id: str) -> None:
        raise BrokerUnavailableError("nobody answers", "wait")

    with serving(api_settings, ring=broken) as server:
        assert server.job(server.job_id())["status"] == "queued"


def test_jobs_far_behind_others_ring_no_doorbell_and_urgent_ones_do(api_server: ApiServer) -> None:
    training = api_server.file_id()
    waiting = [api_server.job_id(training_file=training) for _ in range(SPARE_RINGS + 2)]
    urgent = api_server.job_id(training_file=training, method={"type": "supervised", "supervised": {"priority": 1}})
    assert api_server.rings == [*waiting[:SPARE_RINGS], urgent]


@pytest.mark.postgres
def test_the_whole_way_on_postgres(api_settings: ApiSettings, postgres_url: str) -> None:
    with serving(api_settings.model_copy(update={"database_url": postgres_url})) as server:
        training, validation = server.file_id(), server.file_id(labelled(2))
        job_id = server.job_id(training_file=training, validation_file=validation, metadata={"k": "v"})
        worker = server.claim(job_id)
        worker.step(3)
        worker.checkpoint(3)
        assert server.job(job_id)["sgg"]["progress"] == 0.3
        worker.succeed(RESULTS)
        assert server.job(job_id)["status"] == "succeeded"
        with server.http() as http:
            found = http.get("/v1/fine_tuning/jobs", params={"metadata[k]": "v"}).json()["data"]
            assert [job["id"] for job in found] == [job_id]
            for name in ("nul%00", "%ED%A0%80"):
                assert http.get(f"/v1/files/{name}").status_code in (400, 404)
            bad = server.create_job(model="smollm2-135m-instruct", training_file=training, metadata={"k": "\x00"})
            assert bad.status_code == 400
