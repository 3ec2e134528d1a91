"""Quotas over HTTP: OpenAI's error, told once, and nothing of what was refused is kept."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from api.files import service
from api.files.adapters import AdapterFileFacts
from api.files.facts import FileFacts
from api.files.inspection import inspect
from api.files.schemas import Upload
from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.testing import add_file

MODEL = "smollm2-135m-instruct"


def assert_refused(response: httpx.Response, says: str) -> None:
    assert response.status_code == 429, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_quota", None)
    assert says in error["message"] and "administrator" in error["message"]
    assert response.headers["x-should-retry"] == "false"


def test_a_full_queue_refuses_once_and_gives_the_same_job_to_a_repeated_request(api_settings: ApiSettings) -> None:
    with serving(api_settings.model_copy(update={"max_queued_jobs": 1})) as server:
        body = {"model": MODEL, "training_file": server.file_id()}
        first = server.create_job(headers={"Idempotency-Key": "k"}, **body)
        assert first.status_code == 200
        assert_refused(server.create_job(**body), "1 jobs waiting")
        again = server.create_job(headers={"Idempotency-Key": "k"}, **body)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        sent: list[httpx.Request] = []
        with httpx.Client(event_hooks={"request": [sent.append]}, trust_env=False) as http:
            client = OpenAI(base_url=server.base_url, api_key=server.admin_key, http_client=http)
            with pytest.raises(openai.RateLimitError):
                client.fine_tuning.jobs.create(model=MODEL, training_file=body["training_file"])
        assert len(sent) == 1
        assert len(server.rings) == 1
        server.claim(first.json()["id"])
        assert server.create_job(**body).status_code == 200


def test_a_file_that_does_not_fit_is_not_kept(api_settings: ApiSettings) -> None:
    content = labelled()
    with serving(api_settings.model_copy(update={"max_stored_bytes": len(content)})) as server:
        server.file_id(content)
        assert_refused(server.upload(content), "bytes of stored files")
        stored = [path for path in Path(server.settings.object_store_url).rglob("*") if path.is_file()]
        assert len(stored) == 1
        with server.http() as http:
            [file] = http.get("/v1/files").json()["data"]
            assert http.delete(f"/v1/files/{file['id']}").status_code == 200
        server.file_id(content)


def test_of_two_files_at_once_that_fit_alone_one_is_not_kept(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = labelled()
    with serving(api_settings.model_copy(update={"max_stored_bytes": len(content)})) as server:

        def inspect_meanwhile(upload: Upload, max_bytes: int) -> FileFacts | AdapterFileFacts:
            """While one is inspected, which had room when it came, the other one takes the room."""
            with server.database.begin() as session:
                add_file(session, bytes=len(content))
            return inspect(upload, max_bytes)

        monkeypatch.setattr(service, "inspect", inspect_meanwhile)
        assert_refused(server.upload(content), "bytes of stored files")
        assert list(server.objects.list("files")) == []


def test_a_small_quota_of_one_project_is_nothing_to_another(api_server: ApiServer) -> None:
    with api_server.http() as http:
        path = "/v1/organization/projects/proj-default"
        assert http.post(path, json={"sgg": {"quotas": {"queued_jobs": 0}}}).status_code == 200
    other = api_server.new_key(project_id="proj-other")
    for key, status in ((api_server.admin_key, 429), (other, 200)):
        body = {"model": MODEL, "training_file": api_server.file_id(key=key)}
        assert api_server.create_job(key, **body).status_code == status


def test_a_priority_above_0_is_for_administrators(api_server: ApiServer) -> None:
    user = api_server.new_key(["jobs:write", "files:write"])
    file_id = api_server.file_id()

    def ask(key: str, priority: int, method: str = "sgg") -> httpx.Response:
        settings = {"type": method, method: {"priority": priority}}
        return api_server.create_job(key, model=MODEL, training_file=file_id, method=settings)

    assert ask(user, 0).status_code == ask(user, -10).status_code == 200
    refused = ask(user, 1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
    urgent = ask(api_server.admin_key, 10, "supervised").json()
    assert urgent["method"]["supervised"]["priority"] == 10
    assert urgent["sgg"]["queue_position"] == 1
    out_of_bounds = ask(api_server.admin_key, 11).json()["error"]
    assert out_of_bounds["param"] == "method.sgg.priority"
