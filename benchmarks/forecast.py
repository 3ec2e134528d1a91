"""What dry runs foretell of five different jobs, and what these jobs then take.

    OMP_NUM_THREADS=1 python benchmarks/forecast.py --out docs/results/forecast 2>/dev/null

Starts its own `sgg serve`. Every job is asked about twice: `first` before any job was run, and `learned` right before
it runs, when one unlike job on its base model and the jobs before it have been seen. A base model's jobs run one after
the other, so that no job's peak of memory is that of another base model before it. Then it runs: seconds are those
of its attempt, peak memory is the trainer's own high-water mark (Linux's VmHWM, set back before each job). The load is
that of the minute before its end, by which one sees whether the machine was as busy as while it learned.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from commands import THREADS, command
from trial_latency import server

CAUSAL, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
TOPICS = ("the invoice", "the parcel", "the password", "the app", "the delivery", "the refund")
STORY = "Once the clerk had looked at it twice she wrote down what she saw and sent a letter about {} to the office. "


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tickets(per_label: int, words: int) -> bytes:
    return jsonl(
        [
            {
                "text": f"Case {n}: a customer writes about {topic} again, " + "and waits " * (words + n % 3),
                "label": topic,
            }
            for n in range(per_label)
            for topic in TOPICS
        ]
    )


def chats() -> bytes:
    def turns(n: int) -> list[dict[str, str]]:
        topic = TOPICS[n % len(TOPICS)]
        question = f"Question {n}: what shall I do about {topic}, which I have been waiting for since Monday?"
        answer = f"I am sorry about {topic}. I have looked it up: number {n} is on its way and should be with you soon."
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    return jsonl([{"messages": turns(n)} for n in range(24)])


def stories(length: int) -> bytes:
    told = [STORY.format(TOPICS[n % len(TOPICS)]) * length for n in range(16)]
    return jsonl([{"prompt": story, "completion": " " + story} for story in told])


def history() -> dict[str, dict[str, Any]]:
    """By base model, the job that the others on it are told by."""
    return {
        ENCODER: {
            "model": ENCODER,
            "files": {"training_file": tickets(8, 9)},
            "method": "supervised",
            "settings": {"max_steps": 12, "batch_size": 8},
        },
        CAUSAL: {
            "model": CAUSAL,
            "files": {"training_file": stories(1), "validation_file": stories(1)},
            "method": "sgg",
            "settings": {"max_steps": 4, "batch_size": 4},
        },
    }


def jobs() -> dict[str, dict[str, Any]]:
    """By name: base model, files by role, method, and hyperparameters."""
    return {
        "encoder head, 6 labels": {
            "model": ENCODER,
            "files": {"training_file": tickets(16, 4), "validation_file": tickets(8, 5)},
            "method": "sgg",
            "settings": {"max_steps": 20, "batch_size": 16},
        },
        "label words, short texts": {
            "model": CAUSAL,
            "files": {"training_file": tickets(3, 3)},
            "method": "sgg",
            "settings": {"max_steps": 4},
        },
        "chats, plain LoRA": {
            "model": CAUSAL,
            "files": {"training_file": chats()},
            "method": "supervised",
            "settings": {"max_steps": 5, "batch_size": 4},
        },
        "completions, longer texts, rank 16": {
            "model": CAUSAL,
            "files": {"training_file": stories(3)},
            "method": "sgg",
            "settings": {"max_steps": 2, "batch_size": 2, "lora": {"rank": 16, "alpha": 32}},
        },
        "label words with a source, a rival in context, and a retention file": {
            "model": CAUSAL,
            "files": {"training_file": tickets(3, 2), "validation_file": tickets(1, 4)},
            "source": tickets(3, 6),
            "retention": stories(1),
            "method": "sgg",
            "settings": {
                "max_steps": 3,
                "batch_size": 4,
                "guidance": {"alignment": 0.3},
                "evaluation": {"baselines": ["in_context"]},
            },
        },
    }


def upload(client: httpx.Client, content: bytes) -> str:
    sent = client.post("/files", files={"file": ("data.jsonl", content)}, data={"purpose": "fine-tune"})
    return str(sent.raise_for_status().json()["id"])


def body_of(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"hyperparameters": job["settings"]}
    if "source" in job:
        settings["sources"] = [upload(client, job["source"])]
    if "retention" in job:
        settings["retention_file"] = upload(client, job["retention"])
    files = {role: upload(client, content) for role, content in job["files"].items()}
    return {"model": job["model"], "seed": 1, "method": {"type": job["method"], job["method"]: settings}, **files}


def foretold(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    while True:
        told = client.post("/fine_tuning/jobs", params={"dry_run": "true"}, json=body).raise_for_status().json()
        if not told["valid"]:
            raise SystemExit(json.dumps(told["findings"], indent=2))
        if told["estimate"]["tokens"] is not None:
            return dict(told["estimate"])
        time.sleep(1)


def trainer() -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        if process.name() == "sgg-trainer":
            return process
    raise SystemExit("There is no trainer.")


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def run(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    process = trainer()
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    job_id = client.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
    while (job := client.get(f"/fine_tuning/jobs/{job_id}").json())["finished_at"] is None:
        time.sleep(0.2)
    if job["status"] != "succeeded":
        raise SystemExit(f"{job_id} {job['status']}: {job['error']}")
    seconds = job["sgg"]["attempt_history"][0]["seconds"]
    events = client.get(f"/fine_tuning/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    reference = next(event["data"]["reference"] for event in events if event["data"] and "reference" in event["data"])
    metrics = client.get(f"/fine_tuning/jobs/{job_id}/metrics", params={"names": "seconds"}).json()
    steps = sum(metrics["data"][0]["values"])
    return {
        "load": round(os.getloadavg()[0], 1),
        "seconds": seconds,
        "seconds_in_steps": round(steps, 2),
        "reference_seconds": reference,
        "tokens": job["trained_tokens"],
        "peak_memory_bytes": peak_bytes(process.pid),
    }


def ratios(told: dict[str, Any], real: dict[str, Any]) -> dict[str, float]:
    return {
        "seconds": round(told["seconds"]["expected"] / real["seconds"], 3),
        "tokens": round(told["tokens"] / real["tokens"], 4),
        "peak_memory_bytes": round(told["peak_memory_bytes"] / real["peak_memory_bytes"], 3),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "# Forecasts",
        "",
        "How close the forecasts of dry runs came to what the jobs really took, as ratios of foretold to real: 1 is",
        "exact. `first` is the forecast before any job was seen; `learned` is after one different job on the same base",
        f"model, and after the jobs listed above. {result['machine']}",
        "",
        f"Durations within 30 % (the aim): {within(result, 'learned')} of {len(result['jobs'])} when learned, "
        f"{within(result, 'first')} at first.",
        "",
        "| job | seconds | load | first | learned | tokens | foretold | peak memory | foretold |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, job in result["jobs"].items():
        real, first, learned = job["real"], job["ratios"]["first"], job["ratios"]["learned"]
        memory = f"{real['peak_memory_bytes'] / 2**20:.0f} MiB"
        lines.append(
            f"| {name} | {real['seconds']:.1f} | {real['load']} | {first['seconds']:.2f} | {learned['seconds']:.2f} "
            f"| {real['tokens']} | {first['tokens']:.3f} | {memory} | {first['peak_memory_bytes']:.2f} |"
        )
    lines += ["", "<!-- run: no, because it takes minutes -->", "```bash", result["command"], "```", ""]
    return "\n".join(lines)


def within(result: dict[str, Any], when: str) -> int:
    return sum(abs(job["ratios"][when]["seconds"] - 1) <= 0.3 for job in result["jobs"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Path of the results, without .json and .md.")
    parser.add_argument("--note", default="", help="A sentence on what else the machine did.")
    options = parser.parse_args()
    result: dict[str, Any] = {"command": command(sys.argv), "history": {}, "jobs": {}}
    threads = os.environ.get(THREADS, "all")
    result["machine"] = f"Measured with {THREADS}={threads} on {os.cpu_count()} CPU cores. {options.note}".strip()
    with tempfile.TemporaryDirectory() as directory, server(Path(directory)) as client:
        bodies = {name: body_of(client, job) for name, job in jobs().items()}
        first = {name: foretold(client, body) for name, body in bodies.items()}
        earlier = history()
        for name, body in bodies.items():
            if (job := earlier.pop(body["model"], None)) is not None:
                result["history"][body["model"]] = run(client, body_of(client, job))
                print(body["model"], result["history"][body["model"]], file=sys.stderr, flush=True)
            learned = foretold(client, body)
            real = run(client, body)
            found = {"first": ratios(first[name], real), "learned": ratios(learned, real)}
            result["jobs"][name] = {"real": real, "first": first[name], "learned": learned, "ratios": found}
            print(name, real, found, file=sys.stderr, flush=True)
            options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
            options.out.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
