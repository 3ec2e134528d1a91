"""Seconds from submitting a job over HTTP to its training, with a warm trainer. Starts its own `sgg serve`.

    python benchmarks/latency.py --jobs 5 > docs/results/latency.json

Measured by a client that polls the job's events every 10 ms: `training` is when the trainer is about to take its first
step, `first_step` when the figures of that step can be read. The base model is SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

BASE_MODEL = "smollm2-135m-instruct"
ROWS = [{"text": f"The {thing} was {word}.", "label": label}
        for thing in ("film", "meal", "room", "book", "trip", "song", "game", "show")
        for word, label in (("wonderful", "good"), ("dreadful", "bad"))]  # fmt: skip


@contextmanager
def server(data_dir: Path) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--json", "--data-dir", str(data_dir)]
    environment = os.environ | {"SGG_WARM_BASE_MODEL": BASE_MODEL}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            key = Path(facts["admin_key_file"]).read_text().strip()
            yield httpx.Client(base_url=facts["url"], headers={"Authorization": f"Bearer {key}"}, timeout=60)
        finally:
            process.terminate()
            process.wait()


def submit(client: httpx.Client, file_id: str) -> str:
    method = {"type": "sgg", "sgg": {"hyperparameters": {"max_steps": 2, "batch_size": 8}}}
    body = {"model": BASE_MODEL, "training_file": file_id, "method": method}
    return str(client.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"])


def measure(client: httpx.Client, file_id: str) -> dict[str, float]:
    begun = time.perf_counter()
    job_id = submit(client, file_id)
    times = {"answer": time.perf_counter() - begun}
    while "first_step" not in times:
        events = client.get(f"/fine_tuning/jobs/{job_id}/events").raise_for_status().json()["data"]
        now = time.perf_counter() - begun
        for event in events:
            if "first_step" in event["data"]:
                times.setdefault("training", now)
            if event["type"] == "metrics":
                times.setdefault("first_step", now)
        time.sleep(0.01)
    while (job := client.get(f"/fine_tuning/jobs/{job_id}").raise_for_status().json())["finished_at"] is None:
        time.sleep(0.1)
    if job["status"] != "succeeded":
        raise SystemExit(f"{job_id} {job['status']}: {job['error']}")
    times["finished"] = time.perf_counter() - begun
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument(
        "--warm-up-seconds", type=float, default=30.0, help="wait after the start, before the first job"
    )
    options = parser.parse_args()
    content = "\n".join(json.dumps(row) for row in ROWS).encode()
    with tempfile.TemporaryDirectory() as directory, server(Path(directory)) as client:
        files = {"file": ("train.jsonl", content)}
        file_id = client.post("/files", files=files, data={"purpose": "fine-tune"}).raise_for_status().json()["id"]
        time.sleep(options.warm_up_seconds)
        jobs = [measure(client, file_id) for _ in range(options.jobs)]
    medians = {name: round(statistics.median(job[name] for job in jobs), 3) for name in jobs[0]}
    machine = {"processor": platform.processor() or platform.machine(), "cpu_count": os.cpu_count()}
    rounded = [{name: round(value, 3) for name, value in job.items()} for job in jobs]
    print(json.dumps({"command": sys.argv, "machine": machine, "seconds": rounded, "median": medians}, indent=2))


if __name__ == "__main__":
    main()
