"""Connections over which no request comes are closed; those that are answered are not."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api import connections, middleware
from api.settings import ApiSettings
from api.testing import ApiServer, serving

HEAD_SECONDS, UNREAD_SECONDS = 0.5, 1.0
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def impatient(api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", UNREAD_SECONDS)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.5)
    monkeypatch.setattr(middleware, "DISCARD_SECONDS", 0.5)
    with serving(api_settings) as server:
        yield server


@contextmanager
def connected(server: ApiServer) -> Iterator[socket.socket]:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        yield connection


@pytest.mark.parametrize("begin", [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n", REQUEST + b"\r\n"])
def test_a_connection_is_closed_on_which_no_request_comes(impatient: ApiServer, begin: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(begin)
        if begin.startswith(REQUEST):
            answer = b""
            while not answer.endswith(b"}"):  # its head and its body may come one after the other
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert connection.recv(65536) == b""
        assert time.monotonic() - began < 4  # less than uvicorn waits for the next request


def test_headers_that_drip_do_not_keep_a_connection(impatient: ApiServer) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nx-slow: ")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 10:
                connection.sendall(b"x")
                time.sleep(0.1)


def test_who_is_answered_or_sends_slowly_is_not_cut_off(impatient: ApiServer) -> None:
    job_id = impatient.job_id()
    head = (
        f"GET /v1/fine_tuning/jobs/{job_id}/events?stream=true HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {impatient.admin_key}\r\n\r\n"
    )
    with connected(impatient) as connection:
        connection.sendall(REQUEST + head.encode())
        time.sleep(3 * HEAD_SECONDS)
        impatient.claim(job_id).say("it goes on")
        told = b""
        while b"it goes on" not in told:
            part = connection.recv(65536)
            assert part, told
            told += part
    with connected(impatient) as connection:
        body = b'{"key": "wrong"}'
        connection.sendall(
            b"POST /dashboard/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        time.sleep(3 * HEAD_SECONDS)
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_requests_that_come_together_are_all_answered(impatient: ApiServer) -> None:
    with connected(impatient) as connection:
        connection.sendall(REQUEST * 5)
        told = b""
        while told.count(b"HTTP/1.1 200") < 5:
            part = connection.recv(65536)
            assert part, told
            told += part


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def everything(connection: socket.socket) -> bytes:
    """What comes until the end, also of a connection that was broken off."""
    told = b""
    try:
        while part := connection.recv(65536):
            told += part
    except ConnectionResetError:
        pass
    return told


BODY = b"POST /dashboard/session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /health/live HTTP/1.1\r\n", b"x-more: " + b"x" * 10_000 + b"\r\n"),
        (b"GET /health/live HTTP/1.1\r\nx-long: ", b"x" * 10_000),
        (b"GET /health/live?", b"x" * 10_000),
        (BODY + b"2\r\n{}\r\n0\r\n", b"x-trailer: " + b"x" * 10_000 + b"\r\n"),
        (BODY + b"2;", b"x" * 10_000),
    ],
    ids=["headers", "one header", "url", "trailers", "chunk extension"],
)
def test_heads_without_end_are_not_kept(impatient: ApiServer, begin: bytes, more: bytes) -> None:
    before, began = resident_bytes(), time.monotonic()
    with connected(impatient) as connection:
        connection.sendall(begin)
        with pytest.raises(OSError):
            while time.monotonic() - began < 10:
                connection.sendall(100 * more)
    assert resident_bytes() - before < 50_000_000  # the server runs in this process


def test_a_head_that_is_too_long_is_told_of(impatient: ApiServer) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nx-long: " + b"x" * 70_000)
        assert everything(connection).startswith(b"HTTP/1.1 431 ")
    with connected(impatient) as connection:
        connection.sendall(REQUEST.replace(b"Host: x", b"Host: x\r\nx-long: " + b"x" * 50_000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_too_large_and_stops_is_answered(impatient: ApiServer) -> None:
    with connected(impatient) as connection:
        connection.sendall(BODY + b"1388\r\n" + b"x" * 5000 + b"\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 413 ")


def asked_often(server: ApiServer, times: int, buffered: int) -> socket.socket:
    """A connection over which more answers come than anything between holds."""
    return asked(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * times, buffered)


def asked(server: ApiServer, requests: bytes, buffered: int) -> socket.socket:
    """A connection over which these were sent, and which holds so many bytes of their answers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffered)
    url = httpx.URL(server.url)
    connection.connect((url.host, url.port))
    connection.settimeout(20)
    connection.sendall(requests)
    return connection


def test_an_answer_that_nobody_reads_is_broken_off(impatient: ApiServer) -> None:
    with asked_often(impatient, 100, 4096) as connection:
        time.sleep(3 * UNREAD_SECONDS)
        assert everything(connection).count(b"HTTP/1.1 200 ") < 100


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sockets of servers hold little, so that what is not read waits in the server's own memory."""
    create_server = socket.create_server

    def create(*where: Any, **how: Any) -> socket.socket:
        listener = create_server(*where, **how)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # those of its connections inherit it
        return listener

    monkeypatch.setattr(socket, "create_server", create)


def wait_until_broken_off(connection: socket.socket) -> None:
    """Wait, without reading, until the server, which runs in this process, holds its end no more."""
    connection.recv(1, socket.MSG_PEEK)  # by now it has accepted the connection
    deadline, held = time.monotonic() + 30, True
    while held:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        held = any(each.raddr == connection.getsockname() for each in psutil.Process().net_connections("tcp"))


@pytest.mark.usefixtures("narrow")
def test_an_answer_whose_reader_stops_after_a_while_is_broken_off_as_well(
    impatient: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    told = b""
    with asked_often(impatient, 20, 16384) as connection:
        while len(told) < 3 * connections.LEAST_READ and (part := connection.recv(4096)):
            told += part
        wait_until_broken_off(connection)
        assert (told + everything(connection)).count(b"HTTP/1.1 200 ") < 20


@pytest.mark.usefixtures("narrow")
def test_few_bytes_that_nobody_reads_keep_no_connection_that_is_to_be_closed(
    impatient: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last answer closes it, and the request behind, which is never answered, is waited for by nobody."""
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    too_large = BODY + b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n"
    with asked(impatient, 150 * REQUEST + too_large + REQUEST, 4096) as connection:
        wait_until_broken_off(connection)
        assert everything(connection).count(b"HTTP/1.1 200 ") < 150


def test_an_answer_that_is_read_slowly_is_not(impatient: ApiServer) -> None:
    told, began = b"", time.monotonic()
    with asked_often(impatient, 40, 65536) as connection:
        while told.count(b"HTTP/1.1 200 ") < 40:
            part = connection.recv(65536)
            assert part, len(told)
            told += part
            time.sleep(0.03)
    assert time.monotonic() - began > 1.5 * UNREAD_SECONDS


def test_a_kept_connection_that_is_reset_is_no_defect(
    impatient: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    with connected(impatient) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(6)  # uvicorn keeps it for five seconds
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_a_body_that_breaks_off_is_no_defect(impatient: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    with connected(impatient) as connection:
        connection.sendall(
            b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 500\r\n\r\n{"a":'
        )
        time.sleep(0.3)
    with impatient.http() as http:
        assert http.get("/health/live").status_code == 200
    time.sleep(0.5)
    assert "met a defect" not in caplog.text
