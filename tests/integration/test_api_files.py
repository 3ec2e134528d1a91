"""Files over HTTP: what is accepted, what is refused and why, and that nothing is left of what is refused."""

from __future__ import annotations

import hashlib
import resource
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.dependencies import UPLOADS_OF_PROJECT
from api.files import service
from api.files.inspection import inspect
from api.files.schemas import Upload
from api.files.upload import received_upload
from api.testing import ApiServer, jsonl, labelled
from sgg_store.quotas import Quotas
from sgg_store.records import FileRecord
from worker.testing import eventually

BROKEN_LINE_7 = jsonl(*({"text": f"t{index}", "label": "ab"[index % 2]} for index in range(6))) + b'{"text": "t7", \n'


def stored(server: ApiServer) -> list[str]:
    return [found.key for found in server.objects.list("") if not found.key.startswith("health/")]


def listed(server: ApiServer) -> list[dict[str, Any]]:
    with server.http() as http:
        return list(http.get("/v1/files").json()["data"])


def test_an_uploaded_file_is_described_and_comes_back_byte_for_byte(api_server: ApiServer) -> None:
    content = labelled()
    file = api_server.upload(content, "träin 1.jsonl").json()
    assert (file["object"], file["purpose"], file["status"]) == ("file", "fine-tune", "processed")
    assert (file["filename"], file["bytes"]) == ("träin 1.jsonl", len(content))
    digest = hashlib.sha256(content).hexdigest()
    expected = {"kind": "classification", "examples": 16, "labels": ["bad", "good"], "sha256": digest}
    expected |= {"rank": None, "targets": []}  # of uploaded adapters only
    assert file["sgg"] == expected | {"warning_count": 0, "warnings": []}
    with api_server.http() as http:
        assert http.get(f"/v1/files/{file['id']}").json() == file
        answer = http.get(f"/v1/files/{file['id']}/content")
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''tr%C3%A4in%201.jsonl"


@pytest.mark.parametrize(
    ("content", "filename", "line", "says"),
    [
        pytest.param(b"", "a.jsonl", None, "no examples", id="empty"),
        pytest.param(b'{"txt": "a", "label": "b"}\n', "a.jsonl", 1, "txt", id="wrong column names"),
        pytest.param(BROKEN_LINE_7, "a.jsonl", 7, "not valid JSON", id="broken JSON on line 7"),
        pytest.param(b'{"text": "caf\xe9", "label": "a"}\n', "a.jsonl", 1, "UTF-8", id="not UTF-8"),
        pytest.param(b"PK\x03\x04rest", "a.jsonl", None, "zip", id="an archive"),
        pytest.param(b"text,label\na,b,c\n", "a.csv", 2, "3 column", id="a column too many"),
    ],
)
def test_a_bad_file_is_refused_with_its_problems_and_leaves_nothing(
    api_server: ApiServer, content: bytes, filename: str, line: int | None, says: str
) -> None:
    response = api_server.upload(content, filename)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("invalid_file", "file", "invalid_request_error")
    problem = error["sgg"]["problems"][0]
    assert problem["line"] == line
    assert says in f"{problem['field']} {problem['reason']}"
    assert problem["remedy"] and problem["remedy"] in error["message"]
    assert stored(api_server) == [] and listed(api_server) == []


def test_all_problems_of_a_file_come_at_once(api_server: ApiServer) -> None:
    content = b'{"text": "a"}\n{"text": 3, "label": "b"}\nnonsense\n'
    problems = api_server.upload(content).json()["error"]["sgg"]["problems"]
    assert [problem["line"] for problem in problems] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "filename"),
    [
        pytest.param(b"\xef\xbb\xbf" + labelled(), "bom.jsonl", id="BOM"),
        pytest.param(labelled().replace(b"\n", b"\r\n"), "crlf.jsonl", id="CRLF"),
        pytest.param(b'text,label\n"one, ""two""\nthree",a\nfour,b\n', "quotes.csv", id="CSV with quotes and newlines"),
        pytest.param(jsonl({"prompt": "p", "completion": "c"}), "completion.jsonl", id="completion"),
        pytest.param(labelled(8, ["only"]), "one-label.jsonl", id="one label is enough to validate with"),
    ],
)
def test_unusual_but_good_files_are_accepted_unchanged(api_server: ApiServer, content: bytes, filename: str) -> None:
    file_id = api_server.file_id(content, filename)
    with api_server.http() as http:
        assert http.get(f"/v1/files/{file_id}/content").content == content


def test_suspicious_lines_are_told_and_accepted(api_server: ApiServer) -> None:
    same, other = {"text": "same", "label": "a"}, {"text": "same", "label": "b"}
    facts = api_server.upload(jsonl(same, same, other, {"text": "x", "label": "b"})).json()["sgg"]
    assert facts["warning_count"] == len(facts["warnings"]) == 2
    assert [warning["line"] for warning in facts["warnings"]] == [2, 3]
    assert "same as" in facts["warnings"][0]["reason"] and "label" in facts["warnings"][1]["reason"]


def test_a_label_with_one_example_is_told_and_accepted(api_server: ApiServer) -> None:
    [warning] = api_server.upload(labelled() + jsonl({"text": "x", "label": "rare"})).json()["sgg"]["warnings"]
    assert (warning["line"], warning["field"]) == (17, "label")
    assert "'rare' has only this example" in warning["reason"] and "Add" in warning["remedy"]


@contextmanager
def full_disk(largest_file: int) -> Iterator[None]:
    """Let writes beyond so many bytes of a file fail, as they do on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize(("size", "room"), [(900_000, 600_000), (4_000_000, 2_000_000)], ids=["stored", "received"])
def test_a_full_disk_is_told_and_nothing_half_written_stays(api_server: ApiServer, size: int, room: int) -> None:
    content = jsonl(*({"text": f"{index} {'x' * 1000}", "label": "ab"[index % 2]} for index in range(size // 1000)))
    with full_disk(room):
        response = api_server.upload(content)
    error = response.json()["error"]
    assert (response.status_code, error["code"], response.headers["x-should-retry"]) == (507, "disk_full", "false")
    assert "free some" in error["message"] and str(api_server.settings.data_dir) not in error["message"]
    assert stored(api_server) == [] and listed(api_server) == []
    assert api_server.upload(content).status_code == 200


def test_a_file_of_51_mb_is_refused_and_leaves_nothing(api_server: ApiServer) -> None:
    response = api_server.upload(b"x" * (51 * 2**20))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert "52,428,800" in response.json()["error"]["message"]
    assert stored(api_server) == [] and listed(api_server) == []


def test_a_body_without_announced_length_is_bounded_as_well(api_server: ApiServer) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for _ in range(51):
            yield b"x" * 2**20
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'

    with api_server.http() as http:
        response = http.post("/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert stored(api_server) == [] and listed(api_server) == []


def test_the_limit_counts_the_bytes_of_the_file_not_of_the_form(api_server: ApiServer) -> None:
    limit = api_server.settings.max_upload_bytes
    too_long = api_server.upload(b"x" * (limit + 1))
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (413, "file")
    assert api_server.upload(b"x" * limit).json()["error"]["code"] == "invalid_file"


LARGE = jsonl(*({"text": f"{index} {'ü' * 1000}", "label": "ab"[index % 2]} for index in range(1000)))


def test_a_large_file_is_inspected_like_a_small_one(api_server: ApiServer) -> None:
    name = 'große "datei".jsonl'
    facts = api_server.upload(LARGE, name).json()["sgg"]
    assert (facts["examples"], facts["labels"]) == (1000, ["a", "b"])
    assert facts["sha256"] == hashlib.sha256(LARGE).hexdigest()
    refused = api_server.upload(LARGE + b"nonsense\n").json()["error"]
    assert (refused["code"], [problem["line"] for problem in refused["sgg"]["problems"]]) == ("invalid_file", [1001])
    assert "double quotes" not in refused["message"] and "one JSON object per line" in refused["message"]


def test_uploads_that_wait_for_each_other_keep_nobody_else_waiting(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def late(*given: Any) -> Any:
        assert go_on.wait(60)
        return inspect(*given)

    monkeypatch.setattr("api.files.service.inspect", late)
    with ThreadPoolExecutor(50) as pool:  # more than the server has threads
        uploads = [pool.submit(api_server.upload, labelled()) for _ in range(50)]
        try:
            time.sleep(3)
            with api_server.http() as http:
                assert http.get("/v1/fine_tuning/jobs", timeout=30).status_code == 200
            assert not any(upload.done() for upload in uploads)
        finally:
            go_on.set()
        assert {upload.result().status_code for upload in uploads} == {200}


def test_a_project_with_many_uploads_keeps_no_other_waiting_for_all_of_them(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected: list[str] = []
    received: list[str] = []
    go_on, other_is_next, expect_bytes = threading.Event(), threading.Event(), Quotas.expect_bytes

    def noted(upload: Upload, max_bytes: int) -> Any:
        inspected.append(upload.filename)
        assert go_on.wait(60)
        return inspect(upload, max_bytes)

    @asynccontextmanager
    async def noted_upload(*given: Any) -> AsyncIterator[Upload]:
        async with received_upload(*given) as upload:
            received.append(upload.filename)
            yield upload

    def noted_bytes(quotas: Quotas, project_id: str, *given: Any) -> None:
        expect_bytes(quotas, project_id, *given)
        if "only.jsonl" in received:  # which is inspected next, and whose body was looked at before
            other_is_next.set()

    other = api_server.new_key(project_id="proj_other")
    monkeypatch.setattr("api.files.service.inspect", noted)
    monkeypatch.setattr("api.files.endpoints.received_upload", noted_upload)
    monkeypatch.setattr(Quotas, "expect_bytes", noted_bytes)
    with ThreadPoolExecutor(11) as pool:
        uploads = [pool.submit(api_server.upload, labelled(), f"many{number}.jsonl") for number in range(10)]
        try:
            eventually(lambda: (len(received), len(inspected)) == (UPLOADS_OF_PROJECT, 1), seconds=30)
            uploads.append(pool.submit(api_server.upload, labelled(), "only.jsonl", other))
            assert other_is_next.wait(30)
        finally:
            go_on.set()
        assert {upload.result().status_code for upload in uploads} == {200}
    assert len(inspected) == 11 and inspected[1] == "only.jsonl"


def test_a_file_whose_row_was_kept_although_the_database_broke_off_keeps_its_bytes(api_server: ApiServer) -> None:
    def break_off(session: Session) -> None:
        if any(isinstance(row, FileRecord) for row in session.identity_map.values()):
            raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    event.listen(Session, "after_commit", break_off)
    try:
        response = api_server.upload(labelled())
    finally:
        event.remove(Session, "after_commit", break_off)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    (file,) = listed(api_server)
    with api_server.http() as http:
        assert http.get(f"/v1/files/{file['id']}/content").content == labelled()


def test_an_inspection_that_does_not_end_is_given_up(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.files.inspection.TIMEOUT_SECONDS", 0.001)
    response = api_server.upload(LARGE)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "file_inspection_failed")
    assert stored(api_server) == [] and listed(api_server) == []


@pytest.mark.parametrize(
    ("data", "files", "params"),
    [
        ({"purpose": "fine-tune"}, None, ["file"]),
        ({"purpose": "fine-tune", "file": "text instead of a file"}, None, ["file"]),
        ({"purpose": "batch"}, {"file": ("a.jsonl", labelled())}, ["purpose"]),
        ({}, None, ["file", "purpose"]),
        ({}, {"file": ("x" * 256, labelled())}, ["file", "purpose"]),
        (
            {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
            {"file": ("a.jsonl", labelled())},
            ["expires_after"],
        ),
    ],
)
def test_every_problem_of_a_form_is_named(api_server: ApiServer, data: Any, files: Any, params: list[str]) -> None:
    with api_server.http() as http:
        response = http.post("/v1/files", data=data, files=files)
    assert response.status_code == 400
    assert [problem["param"] for problem in response.json()["error"]["sgg"]["problems"]] == params


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"--c\r\nnonsense"),
        ("application/json", b"{}"),
        ("text/plain", b"\xff\x00"),
    ],
)
def test_a_body_that_is_no_form_is_the_callers_fault(api_server: ApiServer, content_type: str, body: bytes) -> None:
    with api_server.http() as http:
        response = http.post("/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_two_files_in_one_form_are_refused(api_server: ApiServer) -> None:
    parts = [("file", ("a.jsonl", labelled())), ("file", ("b.jsonl", labelled()))]
    with api_server.http() as http:
        assert http.post("/v1/files", data={"purpose": "fine-tune"}, files=parts).status_code == 400
    assert listed(api_server) == []


def test_a_hostile_filename_is_display_text_only(api_server: ApiServer) -> None:
    name = '../../etc/"pass\nwd\r\nx-evil: 1.jsonl'
    with api_server.http() as http:
        header = f'form-data; name="file"; filename="{name.replace(chr(34), "%22")}"'.replace("\n", "%0A")
        body = f"--b\r\nContent-Disposition: {header}\r\n\r\n".replace("\r%0A", "%0D%0A").encode() + labelled()
        body += b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
        response = http.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert response.status_code == 200, response.text
        download = http.get(f"/v1/files/{response.json()['id']}/content")
    assert "x-evil" not in download.headers
    assert stored(api_server) == [f"files/{response.json()['id']}"]


def test_pages_of_files_follow_each_other_in_both_orders(api_server: ApiServer) -> None:
    made = [api_server.file_id() for _ in range(5)]
    with api_server.http() as http:
        for order, expected in (("asc", made), ("desc", made[::-1])):
            seen: list[str] = []
            while True:
                params = {"limit": 2, "order": order} | ({"after": seen[-1]} if seen else {})
                page = http.get("/v1/files", params=params).json()
                ids = [file["id"] for file in page["data"]]
                assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
                seen += ids
                if not page["has_more"]:
                    break
            assert seen == expected
        assert http.get("/v1/files", params={"purpose": "fine-tune-results"}).json() == {
            "object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None
        }  # fmt: skip


def test_a_page_ends_early_where_much_is_known_of_its_files(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [api_server.file_id(labelled(1, [f"{number} {'x' * 190}" for number in range(20)])) for _ in range(5)]
    with api_server.http() as http:
        whole = http.get("/v1/files", params={"order": "asc"}).json()
        assert ([file["id"] for file in whole["data"]], whole["has_more"]) == (made, False)
        monkeypatch.setattr(service, "READ_AT_ONCE", 2)
        monkeypatch.setattr(service, "MOST_LISTED_CHARACTERS", 10_000)
        pages = [http.get("/v1/files", params={"order": "asc"}).json()]
        while pages[-1]["has_more"]:
            pages.append(http.get("/v1/files", params={"order": "asc", "after": pages[-1]["last_id"]}).json())
    assert [len(page["data"]) for page in pages] == [2, 2, 1]
    assert [file for page in pages for file in page["data"]] == whole["data"]


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-unknown"}])
def test_bad_list_parameters_are_named(api_server: ApiServer, params: dict[str, Any]) -> None:
    with api_server.http() as http:
        response = http.get("/v1/files", params=params)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(params))


def test_a_deleted_file_is_gone_with_its_bytes(api_server: ApiServer) -> None:
    file_id = api_server.file_id()
    with api_server.http() as http:
        assert http.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert http.request(method, f"/v1/files/{file_id}{path}").status_code == 404
    assert stored(api_server) == []


def test_a_file_stays_while_a_job_needs_it(api_server: ApiServer) -> None:
    file_id = api_server.file_id()
    job_id = api_server.job_id(training_file=file_id)
    with api_server.http() as http:
        response = http.delete(f"/v1/files/{file_id}")
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "file_in_use" and job_id in error["message"] and "Cancel" in error["message"]
        assert http.get(f"/v1/files/{file_id}/content").content == labelled()
        http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
        assert http.delete(f"/v1/files/{file_id}").status_code == 200


def test_lost_bytes_are_the_services_fault_and_said_so(api_server: ApiServer) -> None:
    file_id = api_server.file_id()
    api_server.objects.delete(f"files/{file_id}")
    with api_server.http() as http:
        response = http.get(f"/v1/files/{file_id}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "file_content_missing")
    assert response.headers["x-should-retry"] == "false"
    assert "Upload the file again" in response.json()["error"]["message"]
