"""What real processes write to their logs: one JSON object a line, ids that lead from one to the next, no secret."""

import json
import os
import pty
import subprocess
import sys

import httpx

from worker.testing import eventually

SGG = (sys.executable, "-m", "cli.main")
PASSWORD = "Pa55-word-of-the-broker"


def lines(service):
    """Every line of the server's log; anything but an object on a line is an error."""
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def one(service, event, **fields):
    """The newest line of an event with these fields, once it is there."""

    def newest():
        found = [line for line in lines(service) if line["event"] == event and fields.items() <= line.items()]
        return found[-1] if found else None

    return eventually(newest)


def requests_for_jobs(service):
    wanted = {"event": "request", "method": "POST", "path": "/v1/fine_tuning/jobs", "status": 200}
    return [line for line in lines(service) if wanted.items() <= line.items()]


def test_a_job_can_be_followed_from_its_request_through_its_attempt_into_its_trainer(service, tickets):
    asked = len(requests_for_jobs(service))
    job_id = service.submit(tickets, "optimization.max_steps=2")
    began = one(service, "the attempt begins", job_id=job_id)
    assert (began["attempt"], began["process"], began["logger"]) == (1, "server", "worker.run_job")
    ended = one(service, "the attempt ended", job_id=job_id)
    assert ended["ending"] == "Success"
    trained = one(service, "training begins", job_id=job_id)
    assert (trained["attempt"], trained["said_by"]) == (1, "worker.trainer_process")
    assert trained["trainer_pid"] != trained["pid"] == began["pid"]
    assert eventually(lambda: len(requests_for_jobs(service)) == asked + 1, 30)


def test_the_request_id_of_an_answer_is_that_of_the_log(service):
    answer = httpx.get(f"{service.url}/files/file-nowhere")
    line = one(service, "request", request_id=answer.headers["x-request-id"])
    assert (line["path"], line["status"], line["level"]) == ("/v1/files/file-nowhere", 401, "info")


def test_secrets_that_come_with_requests_are_not_in_the_log(service):
    key = (service.data_dir / "admin-key").read_text().strip()
    _, key_id, secret = key.split("_", 2)
    asked = httpx.get(f"{service.url}/files/{key}", headers={"Authorization": f"Bearer {key}"})
    asked_in_vain = httpx.get(f"{service.url}/files/{key}", headers={"Authorization": f"Bearer {key}x"})
    for answer in (asked, asked_in_vain):
        line = one(service, "request", request_id=answer.headers["x-request-id"])
        assert line["path"] == f"/v1/files/sgg_{key_id}_***"
    assert secret not in service.log.read_text()


def test_health_is_asked_too_often_to_be_written_down(service):
    for _ in range(3):
        httpx.get(service.url.replace("/v1", "/health/live"))
    answer = httpx.get(f"{service.url}/models")
    one(service, "request", request_id=answer.headers["x-request-id"])
    assert not [line for line in lines(service) if line.get("path") == "/health/live"]


def test_a_worker_writes_json_too_and_hides_its_brokers_password(tmp_path, sqlite_url):
    settings = {
        "SGG_DATA_DIR": str(tmp_path / "data"),
        "SGG_DATABASE_URL": sqlite_url,
        "SGG_BROKER_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
    }
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([*SGG, "worker", "--json"], env=os.environ | settings, stdout=log, stderr=log)
    try:
        eventually(lambda: "Cannot connect" in (tmp_path / "log").read_text())
    finally:
        worker.kill()
        worker.wait()
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {line["process"] for line in written if "event" in line} == {"worker"}
    assert PASSWORD not in (tmp_path / "log").read_text()


def test_a_terminal_gets_readable_lines(tmp_path):
    ours, theirs = pty.openpty()
    settings = {"SGG_DATA_DIR": str(tmp_path / "data"), "TERM": "dumb", "SGG_LOG_LEVEL": "info"}
    server = subprocess.Popen(
        [*SGG, "serve", "--port", "0"], env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while b"the worker started" not in seen:
            seen += os.read(ours, 1000)
    finally:
        server.kill()
        server.wait()
        os.close(ours)
    assert b'{"' not in seen
