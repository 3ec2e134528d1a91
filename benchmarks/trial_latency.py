"""Milliseconds from a sentence to its labels through /v1/classifications, and those of switching adapters.

    python benchmarks/trial_latency.py --adapters 3 --questions 50 > docs/results/trial_latency.json

Starts its own `sgg serve` and trains adapters of two steps on SmolLM2-135M-Instruct. Each is warmed with one question;
then `same` always asks one adapter, `switching` asks them in turn, `bare` asks the base model with labels, and `chat`
lets it write 16 tokens. Times are the client's, HTTP and queue included; `switch_ms` is by how much the median of
`switching` exceeds that of `same`.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

BASE_MODEL = "smollm2-135m-instruct"
LABELS = ("billing", "bug report", "feature request", "account access", "praise")
ROWS = [
    {"text": f"Example {number} that speaks of {label}.", "label": label} for number in range(4) for label in LABELS
]
SENTENCE = "I was charged twice this month and nobody answers my mails."


@contextmanager
def server(data_dir: Path) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--json", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            key = Path(facts["admin_key_file"]).read_text().strip()
            yield httpx.Client(base_url=facts["url"], headers={"Authorization": f"Bearer {key}"}, timeout=120)
        finally:
            process.terminate()
            process.wait()


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    while (response := client.post(path, json=body)).status_code == 503:  # the predictor is loading
        time.sleep(1)
    return dict(response.raise_for_status().json())


def train(client: httpx.Client, count: int) -> list[str]:
    content = "\n".join(json.dumps(row) for row in ROWS).encode()
    files = {"file": ("train.jsonl", content)}
    file_id = client.post("/files", files=files, data={"purpose": "fine-tune"}).raise_for_status().json()["id"]
    method = {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 2, "batch_size": 4}}}
    bodies = [{"model": BASE_MODEL, "training_file": file_id, "method": method, "seed": seed} for seed in range(count)]
    jobs = [post(client, "/fine_tuning/jobs", body)["id"] for body in bodies]
    models = []
    for job_id in jobs:
        while (job := client.get(f"/fine_tuning/jobs/{job_id}").json())["finished_at"] is None:
            time.sleep(0.5)
        if job["status"] != "succeeded":
            raise SystemExit(f"{job_id} {job['status']}: {job['error']}")
        models.append(job["fine_tuned_model"])
    return models


def classify(client: httpx.Client, model: str) -> None:
    labels = {} if model.startswith("ft:") else {"labels": list(LABELS)}
    post(client, "/classifications", {"model": model, "input": SENTENCE, **labels})


def chat(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Name a colour."}]
    post(client, "/chat/completions", {"model": BASE_MODEL, "messages": messages, "max_tokens": 16, "temperature": 0})


def measured(questions: int, ask: Callable[[int], None]) -> dict[str, float]:
    took = []
    for number in range(questions):
        began = time.perf_counter()
        ask(number)
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return {
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(took[int(0.95 * (len(took) - 1))], 1),
        "min_ms": round(took[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--questions", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, server(Path(directory)) as client:
        models = train(client, options.adapters)
        began = time.perf_counter()
        classify(client, models[0])
        first = time.perf_counter() - began
        for model in (*models, BASE_MODEL):
            classify(client, model)
        found = {
            "same": measured(options.questions, lambda _: classify(client, models[0])),
            "switching": measured(options.questions, lambda number: classify(client, models[number % len(models)])),
            "bare": measured(options.questions, lambda _: classify(client, BASE_MODEL)),
            "chat": measured(options.questions, lambda _: chat(client)),
        }
    result = {
        "command": sys.argv,
        "machine": {"processor": platform.processor() or platform.machine(), "cpu_count": os.cpu_count()},
        "first_answer_seconds": round(first, 2),
        **found,
        "switch_ms": round(found["switching"]["p50_ms"] - found["same"]["p50_ms"], 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
