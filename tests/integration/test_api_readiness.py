"""Readiness while real parts are away or hang: told within the time, and the process stays alive meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

from api.settings import ApiSettings
from api.testing import serving
from tests.servers import RedisServer, redis_program

pytestmark = pytest.mark.skipif(not redis_program() and not os.environ.get("CI"), reason="needs a Redis server")


def test_a_broker_is_asked_whether_it_is_there_gone_or_silent(tmp_path: Path, sqlite_url: str) -> None:
    broker = RedisServer()
    broker.start()
    settings = ApiSettings(data_dir=tmp_path / "data", database_url=sqlite_url, broker_url=f"{broker.url}/0")
    try:
        with serving(settings) as server, httpx.Client(base_url=server.url, trust_env=False) as http:

            def ready() -> tuple[int, str]:
                began = time.monotonic()
                answer = http.get("/health/ready")
                assert time.monotonic() - began < settings.health_seconds + 3
                assert answer.json()["checks"]["database"] == answer.json()["checks"]["object_store"] == "ok"
                return answer.status_code, answer.json()["checks"]["broker"]

            assert ready() == (200, "ok")
            broker.freeze()
            code, told = ready()
            assert code == 503 and "does not answer" in told
            assert http.get("/health/live").status_code == 200
            broker.thaw()
            deadline = time.monotonic() + 40
            while ready() != (200, "ok"):
                assert time.monotonic() < deadline
            broker.kill()
            code, told = ready()
            assert code == 503 and "does not answer" in told and broker.url not in told
    finally:
        broker.close()
