"""`sgg worker` as a process of its own, with a broker between it and the rest."""

import json
import os
import signal
import subprocess
import sys

import pytest
import redis

REDIS_URL = os.environ.get("SGG_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


@pytest.fixture
def broker():
    try:
        redis.Redis.from_url(REDIS_URL, socket_connect_timeout=3).ping()
    except redis.ConnectionError as error:
        message = f"Redis does not answer at SGG_TEST_REDIS_URL={REDIS_URL}: {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return REDIS_URL


@pytest.mark.redis
def test_a_worker_says_that_it_is_up_and_stops_when_it_is_told_to(tmp_path, sqlite_url, broker):
    settings = {"SGG_DATA_DIR": str(tmp_path / "data"), "SGG_DATABASE_URL": sqlite_url, "SGG_BROKER_URL": broker}
    command = [sys.executable, "-m", "cli.main", "worker", "--json"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert json.loads(worker.stdout.readline())["pid"] == worker.pid
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            worker.kill()
