"""Connections over which no request comes are closed; those that are answered are not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from api import connections
from api.settings import ApiSettings
from api.testing import ApiServer, serving

HEAD_SECONDS = 0.5
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def impatient(api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", HEAD_SECONDS)
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
