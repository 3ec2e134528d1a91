"""What uploads may take of the server before they are files: no more than their project may keep, and few at once."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import openai
import pytest

from api.dependencies import STORING_THREADS, UPLOADS_OF_PROJECT
from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.local_objects import LocalObjectStore

QUOTA = 2**20
BOUNDARY = "x"
HEAD = (
    f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=purpose\r\n\r\nfine-tune\r\n"
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename="a.jsonl"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
CONTENT = labelled()


@pytest.fixture
def server(api_settings: ApiSettings) -> Iterator[ApiServer]:
    with serving(api_settings.model_copy(update={"max_stored_bytes": QUOTA})) as started:
        yield started


@contextmanager
def begun(server: ApiServer, path: str, key: str | None = None, **headers: str) -> Iterator[http.client.HTTPConnection]:
    """A request whose headers are sent, and nothing of its body."""
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)) as connection:
        connection.putrequest("POST", path)
        headers |= {"authorization": f"Bearer {key or server.admin_key}"}
        headers |= {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        yield connection


def send_chunk(connection: http.client.HTTPConnection, piece: bytes) -> None:
    connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def answered(connection: http.client.HTTPConnection) -> httpx.Response:
    response = connection.getresponse()
    return httpx.Response(response.status, headers=response.getheaders(), content=response.read())


def assert_over_quota(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "insufficient_quota")
    assert f"{QUOTA:,} bytes of stored files" in error["message"]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/upload_1/parts"])
def test_what_a_project_may_not_keep_is_refused_before_it_is_sent(server: ApiServer, path: str) -> None:
    with begun(server, path, content_length=str(2 * QUOTA)) as connection:
        assert_over_quota(answered(connection))


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/upload_1/parts"])
def test_a_body_of_unknown_length_is_cut_off_where_the_project_may_keep_no_more(server: ApiServer, path: str) -> None:
    with begun(server, path, transfer_encoding="chunked") as connection:
        send_chunk(connection, HEAD)
        for _ in range(3):
            send_chunk(connection, b"a" * QUOTA)
        assert_over_quota(answered(connection))  # though the body has not ended


def test_what_a_project_may_keep_is_taken_to_the_last_byte_and_without_an_announced_length(server: ApiServer) -> None:
    with begun(server, "/v1/files", transfer_encoding="chunked") as connection:
        for piece in (HEAD, CONTENT, TAIL, b""):
            send_chunk(connection, piece)
        assert answered(connection).json()["bytes"] == len(CONTENT)
    full = CONTENT.ljust(QUOTA - len(CONTENT), b"\n")
    assert_over_quota(server.upload(full + b"\n"))
    assert server.upload(full).status_code == 200


def test_a_project_has_few_uploads_under_way_and_keeps_nobody_else_waiting(server: ApiServer) -> None:
    other = server.new_key(project_id="proj-other")
    with ExitStack() as opened, ThreadPoolExecutor() as pool:
        started = [
            opened.enter_context(begun(server, "/v1/files", content_length=str(len(HEAD) + 1000)))
            for _ in range(UPLOADS_OF_PROJECT)
        ]
        for connection in started:
            connection.send(HEAD)
        time.sleep(0.5)
        further = pool.submit(server.upload, CONTENT)
        assert server.upload(CONTENT, key=other).status_code == 200
        time.sleep(0.5)
        assert not further.done()
        started[0].close()
        assert further.result(timeout=20).status_code == 200


def test_a_client_that_falls_silent_gives_its_place_away(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.files.upload.SILENT_SECONDS", 0.3)
    with begun(server, "/v1/files", content_length=str(len(HEAD) + 1000)) as connection:
        connection.send(HEAD)
        answer = answered(connection)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "upload_stalled")
    assert "retry-after" in answer.headers


def test_parts_are_stored_by_few_threads_whomever_they_are_from(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, counting, now, most = LocalObjectStore.put, threading.Lock(), 0, 0

    def slow_put(*given: Any, **named: Any) -> None:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        time.sleep(0.2)
        put(*given, **named)
        with counting:
            now -= 1

    def add_parts(project: int) -> None:
        key = api_server.new_key(project_id=f"proj-{project}")
        with openai.OpenAI(base_url=api_server.base_url, api_key=key, max_retries=0) as client:
            upload = client.uploads.create(bytes=9, filename="t", mime_type="text/jsonl", purpose="fine-tune")
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda _: client.uploads.parts.create(upload.id, data=b"abc"), range(3)))

    monkeypatch.setattr(LocalObjectStore, "put", slow_put)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_parts, range(4)))
    assert most == STORING_THREADS
