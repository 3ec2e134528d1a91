"""`sgg worker` as a process of its own, with a broker between it and the rest."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import redis
from sqlalchemy import update

from sgg_store.database import Database
from sgg_store.records import WorkerRecord
from sgg_store.workers import FORGOTTEN_SECONDS, LOST_SECONDS, Workers

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


def age(url, seconds):
    """Let the time pass that nobody was seen in."""
    database = Database(url)
    with database.begin() as session:
        session.execute(update(WorkerRecord).values(seen_at=WorkerRecord.seen_at - seconds))
    database.dispose()


def registered(url, pids):
    """What the register tells as soon as it names these processes, or after some time."""
    database, deadline = Database(url), time.monotonic() + 30
    while True:
        with database.read() as session:
            found = [(view.state, view.presence.pid) for view in Workers(session).all()]
        if [pid for _, pid in found] == pids or time.monotonic() > deadline:
            database.dispose()
            return found
        time.sleep(0.1)


@pytest.mark.redis
def test_a_worker_says_that_it_is_up_and_stops_when_it_is_told_to(tmp_path, sqlite_url, broker):
    settings = {"SGG_DATA_DIR": str(tmp_path / "data"), "SGG_DATABASE_URL": sqlite_url, "SGG_BROKER_URL": broker}
    command = [sys.executable, "-m", "cli.main", "worker", "--json"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert json.loads(worker.stdout.readline())["pid"] == worker.pid
            assert registered(sqlite_url, pids=[worker.pid]) == [("idle", worker.pid)]
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
            assert registered(sqlite_url, pids=[]) == []
        finally:
            worker.kill()


@pytest.mark.redis
def test_a_killed_worker_is_lost_and_forgotten_at_last(tmp_path, sqlite_url, broker):
    settings = {"SGG_DATA_DIR": str(tmp_path / "data"), "SGG_DATABASE_URL": sqlite_url, "SGG_BROKER_URL": broker}
    command = [sys.executable, "-m", "cli.main", "worker", "--json"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as worker:
        try:
            worker.stdout.readline()
            assert registered(sqlite_url, pids=[worker.pid]) == [("idle", worker.pid)]
        finally:
            worker.kill()
    age(sqlite_url, LOST_SECONDS)
    assert registered(sqlite_url, pids=[worker.pid]) == [("lost", worker.pid)]
    age(sqlite_url, FORGOTTEN_SECONDS)
    assert registered(sqlite_url, pids=[]) == []
