"""Scrapes of real processes: the server with its embedded worker, and a worker alone."""

import json
import os
import subprocess
import sys

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Service
from tests.servers import free_port

SGG = (sys.executable, "-m", "cli.main")


def scrape(port):
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_directory):
    service = Service(tmp_path_factory.mktemp("measured"))
    service.metrics_port = free_port()
    service.environment |= {"SGG_METRICS_PORT": str(service.metrics_port)}
    service.add_base_model(tiny_directory)
    service.start()
    yield service
    service.kill()


def test_a_job_leaves_its_trace_in_the_metrics(measured, tickets):
    job_id = measured.submit(tickets, "optimization.max_steps=3")
    measured.wait_for_success(job_id)
    found = scrape(measured.metrics_port)
    assert found["sgg_attempts_ended_total", ("cause", "none"), ("state", "succeeded")] == 1
    assert found["sgg_step_seconds_count", ("base_model", "tiny")] == 3
    assert found["sgg_doorbell_rings_total", ("outcome", "rung")] >= 1
    assert found["sgg_database_up",] == 1
    assert found["sgg_jobs", ("status", "queued")] == 0
    created = ("method", "POST"), ("route", "/v1/fine_tuning/jobs")
    assert found["sgg_http_requests_total", *created, ("status", "200")] == 1
    assert found["sgg_http_request_seconds_count", *created] == 1
    asked = ("method", "GET"), ("route", "/v1/fine_tuning/jobs/{job_id}"), ("status", "200")
    assert found["sgg_http_requests_total", *asked] >= 1
    assert found["process_resident_memory_bytes",] > 0


def test_callers_cannot_make_up_routes_and_verbs(measured):
    for number in range(3):
        httpx.get(measured.url + f"/nowhere/{number}")
        httpx.request(f"VERB{number}", measured.url + "/models")
    series = [name for name in scrape(measured.metrics_port) if name[0] == "sgg_http_requests_total"]
    told = {dict(labels)["route"] for _, *labels in series}
    assert "unknown" in told and not [route for route in told if "nowhere" in route]
    assert {dict(labels)["method"] for _, *labels in series} <= {"GET", "POST", "DELETE", "other"}


def test_metrics_are_neither_on_the_apis_port_nor_anywhere_unless_asked_for(measured):
    key = (measured.data_dir / "admin-key").read_text().strip()
    root = measured.url.removesuffix("/v1")
    for path in (f"{root}/metrics", f"{root}/v1/metrics"):
        assert httpx.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 404
    assert "metrics are served" in measured.log.read_text()


def test_a_taken_port_is_told_with_what_to_do(measured, tmp_path):
    settings = {"SGG_METRICS_PORT": str(measured.metrics_port), "SGG_DATA_DIR": str(tmp_path / "data")}
    done = measured.sgg("serve", "--port", "0", **settings)
    assert done.returncode == 1
    assert "SGG_METRICS_PORT" in done.stderr and "Traceback" not in done.stderr


def test_a_server_of_few_jobs_stays_small_and_loads_no_torch(measured, tickets):
    measured.wait_for_success(measured.submit(tickets, "optimization.max_steps=3"))
    process = psutil.Process(measured.process.pid)
    assert process.memory_info().rss < 200e6
    assert not [entry.path for entry in process.memory_maps() if "libtorch" in entry.path]


@pytest.mark.redis
def test_a_worker_alone_serves_its_own_metrics(tmp_path, sqlite_url):
    port = free_port()
    settings = {
        "SGG_DATA_DIR": str(tmp_path / "data"),
        "SGG_DATABASE_URL": sqlite_url,
        "SGG_BROKER_URL": os.environ.get("SGG_TEST_REDIS_URL", "redis://127.0.0.1:6379/15"),
        "SGG_METRICS_PORT": str(port),
    }
    with subprocess.Popen(
        [*SGG, "worker", "--json"], env=os.environ | settings, stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert json.loads(worker.stdout.readline())["pid"] == worker.pid
            names = {name[0] for name in scrape(port)}
        finally:
            worker.kill()
    assert {"sgg_fenced_writes_total", "process_start_time_seconds"} <= names
    assert "sgg_jobs" not in names, "the queue is told by servers alone"
