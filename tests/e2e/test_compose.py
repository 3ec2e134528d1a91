"""The services of docker-compose.yml with their own commands, environments and health checks, as processes here.

Prometheus and Grafana are left out, since neither is a package that could be installed for a test; what they are
configured with has tests of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.compose import ROOT, Stack, make_env, missing_programs
from worker.testing import TWO_LABELS, eventually

ORDER = (("postgres", 1), ("valkey", 1), ("seaweedfs", 1), ("migrate", 1), ("api", 1), ("worker", 1), ("worker", 2))


@pytest.fixture(scope="module")
def stack(tiny_directory: Path) -> Iterator[Stack]:
    if missing := missing_programs():
        message = f"not installed here: {', '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="sgg-compose-") as name:  # short, and open to Postgres' user
        home = Path(name)
        home.chmod(0o711)
        running = Stack(home, make_env(home))
        add = ["models", "add", "tiny", "--kind", "causal", "--context-tokens", "1024", "--directory"]
        catalogue = os.environ | {"SGG_CATALOGUE_DIR": str(running.models), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "cli.main", *add, tiny_directory], env=catalogue, check=True)
        try:
            for service, replica in ORDER:
                running.start(service, replica)
            yield running
        finally:
            running.stop()


def attempts_that_succeeded(stack: Stack, name: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{stack.metrics_ports[name]}/metrics", trust_env=False).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == "sgg_attempts_ended_total")


def test_the_stack_trains_jobs_on_two_workers_and_stops_when_it_is_told_to(stack: Stack) -> None:
    key = (stack.home / "api-1" / "data" / "admin-key").read_text().strip()
    client = OpenAI(base_url=f"http://127.0.0.1:{stack.ports['api']}/v1", api_key=key, timeout=60)
    training = client.files.create(file=("train.jsonl", TWO_LABELS), purpose="fine-tune")
    settings = {"n_epochs": 50, "max_steps": 40, "batch_size": 4}
    jobs = [
        client.fine_tuning.jobs.create(
            model="tiny",
            training_file=training.id,
            extra_body={"method": {"type": "sgg", "sgg": {"hyperparameters": settings}}},
        ).id
        for _ in range(4)
    ]

    def ended() -> list[str] | None:
        statuses = [client.fine_tuning.jobs.retrieve(job).status for job in jobs]
        return statuses if not {"queued", "running"} & set(statuses) else None

    assert eventually(ended, 200) == ["succeeded"] * 4
    for job in jobs:
        adapter = client.fine_tuning.jobs.retrieve(job).result_files[1]
        assert client.files.content(adapter).read()[:2] == b"\x1f\x8b", "the bundle is a .tar.gz from the object store"
    worked = [attempts_that_succeeded(stack, name) for name in ("worker-1", "worker-2")]
    assert sum(worked) == 4 and min(worked) >= 1

    ready = httpx.get(f"http://127.0.0.1:{stack.ports['api']}/health/ready", trust_env=False).json()
    assert ready["checks"] == dict.fromkeys(("database", "object_store", "broker", "reaper"), "ok")
    secrets = (stack.home / ".env").read_text()
    for line in secrets.splitlines()[1:]:
        name, _, secret = line.partition("=")
        for container in () if name == "S3_ACCESS_KEY_ID" else ("api-1", "worker-1", "worker-2"):
            assert secret not in stack.log(container)
    codes = stack.stop()
    assert {name: code for name, code in codes.items() if code} == {}
