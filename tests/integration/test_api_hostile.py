"""Callers who mean harm: bodies without end, names that lead elsewhere, keys where no key belongs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.audit import AuditLog

BOUNDARY = "x"
HEAD = (
    f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=purpose\r\n\r\nfine-tune\r\n"
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename="a.jsonl"\r\n\r\n'
).encode()
ELSEWHERE = (
    "../../outside.jsonl",
    "/tmp/outside.jsonl",
    "..\\outside.jsonl",
    "objects/../../outside.jsonl",
    "~/x",
    ".",
)


def endless(head: bytes, sent: list[int], most: int) -> Iterator[bytes]:
    """A body whose length is not announced; notes how much of it was taken."""
    yield head
    while sum(sent) < most:
        sent.append(65_536)
        yield b"a" * 65_536


def files_of(settings: ApiSettings) -> set[Path]:
    return {
        path for path in Path(settings.object_store_url).rglob("*") if path.is_file() and "health" not in path.parts
    }


@pytest.mark.parametrize(
    ("path", "head", "content_type"),
    [
        ("/v1/files", HEAD, f"multipart/form-data; boundary={BOUNDARY}"),
        ("/v1/fine_tuning/jobs", b'{"model": "', "application/json"),
        ("/v1/organization/projects", b'{"name": "', "application/json"),
    ],
)
def test_a_body_without_end_is_cut_off_and_nothing_is_kept(
    api_settings: ApiSettings, path: str, head: bytes, content_type: str
) -> None:
    settings = api_settings.model_copy(update={"max_upload_bytes": 100_000, "max_json_bytes": 100_000})
    with serving(settings) as server, server.http() as http:
        before, sent, there = files_of(settings), list[int](), http.get(path).json()["data"]
        body = endless(head, sent, most=500 * 2**20)
        try:
            answer = http.post(path, content=body, headers={"content-type": content_type})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
        except httpx.TransportError:  # the server closes the connection while we are still sending
            pass
        assert sum(sent) < 64 * 2**20  # what is still taken, and the buffers on the way
        assert files_of(settings) == before
        assert http.get(path).json()["data"] == there


@pytest.mark.parametrize(
    ("path", "head", "tail", "content_type"),
    [
        ("/v1/files", HEAD, f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"),
        ("/v1/fine_tuning/jobs", b'{"model": "', b'"}', "application/json"),
        ("/v1/organization/projects", b'{"name": "', b'"}', "application/json"),
    ],
)
def test_a_body_of_little_more_than_is_allowed_is_refused(
    api_settings: ApiSettings, path: str, head: bytes, tail: bytes, content_type: str
) -> None:
    settings = api_settings.model_copy(update={"max_upload_bytes": 100_000, "max_json_bytes": 100_000})
    with serving(settings) as server, server.http() as http:
        before, there = files_of(settings), http.get(path).json()["data"]
        answer = http.post(path, content=head + b"a" * 100_001 + tail, headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert files_of(settings) == before
        assert http.get(path).json()["data"] == there


def test_what_holds_names_and_ids_alone_is_small(api_server: ApiServer) -> None:
    with api_server.http() as http:
        for path in ("/v1/organization/projects", "/v1/webhook_endpoints", "/v1/uploads"):
            answer = http.post(path, json={"name": "a" * 65_536})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large"), path
        assert http.post("/v1/fine_tuning/jobs", json={"name": "a" * 65_536}).status_code == 400


def test_a_body_that_does_not_come_is_given_up(api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.app.BODY_SECONDS", 0.5)
    with serving(api_settings) as server, closing(HTTPConnection(urlsplit(server.url).netloc, timeout=20)) as slow:
        slow.putrequest("POST", "/v1/fine_tuning/jobs")
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", "1000")
        slow.endheaders(b'{"model": ')
        answer = slow.getresponse()
        assert answer.status == 408 and answer.headers["connection"] == "close"
        assert json.load(answer)["error"]["code"] == "request_stalled"


def test_a_stream_outlives_a_body_that_was_announced_and_never_came(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.app.BODY_SECONDS", 0.3)
    with serving(api_settings) as server, closing(HTTPConnection(urlsplit(server.url).netloc, timeout=20)) as caller:
        job_id = server.job_id()
        caller.putrequest("GET", f"/v1/fine_tuning/jobs/{job_id}/events")
        caller.putheader("authorization", f"Bearer {server.admin_key}")
        caller.putheader("accept", "text/event-stream")
        caller.putheader("content-length", "10")
        caller.endheaders()
        answer = caller.getresponse()
        assert answer.status == 200
        time.sleep(1.0)
        with server.http() as http:
            assert http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        assert "The job was cancelled." in answer.read().decode()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_files_name_is_text_and_leads_nowhere(api_server: ApiServer, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".jsonl"}
    answer = api_server.upload(labelled(), name)
    assert answer.status_code == 200 and answer.json()["filename"] == name
    assert {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".jsonl"} == before
    assert not Path("/tmp/outside.jsonl").exists()
    assert len(files_of(api_server.settings)) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2f..%2fkey-secret/content",
        "/v1/files/%2e%2e%2fadmin-key/content",
        "/v1/files/../../admin-key",
        "/v1/models/..%2f..%2fadmin-key",
        "/v1/fine_tuning/jobs/%00/events",
        "/v1/organization/projects/%2e%2e/api_keys",
    ],
)
def test_a_path_that_leads_elsewhere_finds_nothing(api_server: ApiServer, path: str) -> None:
    with api_server.http() as http:
        answer = http.get(path)
    assert answer.status_code in (400, 404)
    assert api_server.admin_key not in answer.text


def test_a_long_path_is_cut_in_the_logs(api_server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), api_server.http() as http:
        assert http.delete(f"/v1/files/{'x' * 60_000}").status_code == 404
        with api_server.database.read() as session:
            [entry] = AuditLog(session).list_page(limit=100).items
    assert entry.target is not None and set(entry.target) == {"x"} and len(entry.target) == 300
    logged = repr([record.__dict__ for record in caplog.records if record.name.startswith("api.")])
    is_cut = "/v1/files/xxx" in logged and "x" * 1000 not in logged
    assert is_cut  # pytest would write the text out


def test_keys_are_in_no_log_and_no_audit_entry(api_server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "sgg_0123456789abcdef_" + "w" * 43
    with caplog.at_level(logging.DEBUG), api_server.http() as http:
        path = "/v1/organization/projects/proj-default/api_keys"
        made = http.post(path, json={"name": "x", "scopes": ["admin"]}).json()["value"]
        for key in (made, wrong, "Bearer " + made):
            http.delete("/v1/files/file-x", headers={"Authorization": f"Bearer {key}"})
        http.post(path, json={"name": "x", "scopes": [made]})
        http.post("/v1/fine_tuning/jobs", json={"model": wrong, "training_file": made})
    secrets = [key.split("_", 2)[2] for key in (made, wrong, api_server.admin_key)]
    with api_server.database.read() as session:
        entries = AuditLog(session).list_page(limit=100).items
    assert len(entries) >= 5 and caplog.records
    told = caplog.text + repr([record.__dict__ for record in caplog.records])
    told += repr([{name: value for name, value in vars(entry).items() if name[0] != "_"} for entry in entries])
    assert not any(secret in told for secret in secrets)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fine_tuning/jobs", {"hyperparameters": {"lora": {"targets": [1] * 300_000}}}),
        ("/v1/fine_tuning/jobs", {"metadata": {f"x{number}": 1 for number in range(80_000)}}),
        ("/v1/fine_tuning/preview", {"method": {"sgg": {"sources": [1] * 300_000}}}),
        ("/v1/chat/completions", {f"x{number}": 1 for number in range(80_000)}),
    ],
)
def test_bodies_of_very_many_values_are_refused_as_a_whole(
    api_server: ApiServer, path: str, body: dict[str, object]
) -> None:
    with api_server.http() as http:
        began = time.monotonic()
        error = http.post(path, json=body).json()["error"]
        seconds = time.monotonic() - began
        assert "but may hold 15,000" in error["message"] and error["code"] == "invalid_value"
        long = http.post(path, json={"text": "a, b" * 50_000})  # is judged by what it is
        assert "may hold" not in long.text
    assert seconds < 2


def test_an_upload_whose_boundary_says_json_is_an_upload(api_server: ApiServer) -> None:
    body = HEAD.replace(f"--{BOUNDARY}".encode(), b"--json1") + labelled() + b"\r\n--json1--\r\n"
    with api_server.http() as http:
        answer = http.post(
            "/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=json1"}, timeout=20
        )
    assert answer.status_code == 200, answer.text
