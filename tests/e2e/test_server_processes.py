"""`sgg serve --processes`: several answer on one port, one that dies is replaced, and none outlives the first."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.servers import free_port
from worker.testing import eventually

SGG = (sys.executable, "-m", "cli.main")


@pytest.fixture
def serving(tmp_path, sqlite_url):
    port, metrics_port = free_port(), free_port()
    settings = {
        "SGG_DATA_DIR": str(tmp_path / "data"),
        "SGG_DATABASE_URL": sqlite_url,
        "SGG_BROKER_URL": os.environ.get("SGG_TEST_REDIS_URL", "redis://127.0.0.1:6379/15"),
        "SGG_METRICS_PORT": str(metrics_port),
    }
    command = [*SGG, "serve", "--no-worker", "--processes", "2", "--port", str(port), "--json"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as server:
        try:
            facts = json.loads(server.stdout.readline())
            yield psutil.Process(server.pid), facts, f"http://127.0.0.1:{metrics_port}/metrics"
        finally:
            server.kill()


def count(metrics_url):
    lines = httpx.get(metrics_url).text.splitlines()
    asked = 'sgg_http_requests_total{method="GET",route="/v1/models",status="200"}'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(asked))


@pytest.mark.redis
def test_several_processes_are_one_server(serving):
    server, facts, metrics_url = serving
    headers = {"Authorization": f"Bearer {Path(facts['admin_key_file']).read_text().strip()}"}

    def ask():
        return httpx.get(f"{facts['url']}/models", headers=headers, timeout=60).status_code

    assert [ask() for _ in range(20)] == [200] * 20
    assert count(metrics_url) == 20  # of all processes together
    first, second = server.children()
    first.kill()
    replaced = eventually(lambda: [each for each in server.children() if each not in (first, second)], 30)
    second.suspend()  # so that only the new one can answer
    assert ask() == 200
    second.resume()
    assert count(metrics_url) == 21  # what the dead one counted is not lost
    server.send_signal(signal.SIGTERM)
    server.wait(30)
    assert not [each for each in (second, *replaced) if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.redis
def test_the_processes_end_with_the_one_that_started_them(serving):
    server, _, _ = serving
    processes = server.children()
    server.kill()
    psutil.wait_procs(processes, timeout=30)
    assert not [each for each in processes if each.is_running()]


def test_the_worker_inside_needs_one_process(tmp_path):
    settings = {"SGG_DATA_DIR": str(tmp_path / "data")}
    command = [*SGG, "serve", "--processes", "2", "--port", "0"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--no-worker" in done.stderr and "Traceback" not in done.stderr
