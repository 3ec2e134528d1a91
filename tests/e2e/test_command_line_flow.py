"""From a file to predictions, through a real server and the real command."""

import json
import signal
from pathlib import Path

import httpx
import pytest

from cli.bundle import verify

QUICK = ("optimization.max_steps=6", "optimization.batch_size=4", "task.max_tokens=256")
EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = ("optimization.max_steps=100000", "optimization.epochs=50", "optimization.batch_size=1", "task.max_tokens=256")


@pytest.fixture(scope="module")
def finished(service, tmp_path_factory):
    """A finished job, and what watching it printed."""
    rows = [{"text": f"{word} {n}", "label": word} for word in ("bill", "bug") for n in range(4)]
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job_id = service.submit(path, *QUICK)
    return job_id, service.sgg("jobs", "watch", job_id)


def test_the_announcement_tells_where_everything_is(service):
    assert service.announcement["url"] == service.url
    assert service.announcement["pid"] == service.process.pid
    key_file = service.data_dir / "admin-key"
    assert service.announcement["admin_key_file"] == str(key_file)
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_watching_shows_every_step_and_ends_with_the_outcome(finished):
    _, watched = finished
    assert watched.returncode == 0, watched.stderr
    last = watched.stdout.splitlines()[-1]
    assert last.startswith("succeeded: step 6/6  loss ")
    assert "|g| " in last
    assert "cos " in last


def test_the_same_events_come_as_json_lines(service, finished):
    events = [json.loads(line) for line in service.sgg("jobs", "watch", finished[0], "--json").stdout.splitlines()]
    steps = [event["data"]["step"] for event in events if "train_loss" in event["data"]]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_the_adapter_is_downloaded_verified_and_predicts(service, finished, tmp_path):
    job_id, _ = finished
    out = tmp_path / "adapter"
    facts = service.sgg_json("jobs", "download", job_id, "--out", out)
    assert facts["files"] == verify(out) > 5
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}
    predicted = service.sgg("predict", out, "--text", "bill 9", "--text", "bug 9", "--json")
    assert predicted.returncode == 0, predicted.stderr
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["bill 9", "bug 9"]
    assert all(row["label"] in ("bill", "bug") for row in rows)
    assert all(sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-4) for row in rows)
    model = service.sgg_json("jobs", "show", job_id)["fine_tuned_model"]
    asked = service.sgg("predict", "--model", model, "--text", "bill 9", "--text", "bug 9", "--json")
    assert asked.returncode == 0, asked.stderr
    for there, here in zip(map(json.loads, asked.stdout.splitlines()), rows, strict=True):
        assert (there["text"], there["label"]) == (here["text"], here["label"])
        assert there["probabilities"] == pytest.approx(here["probabilities"], abs=1e-4)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "bill 9", "label": "bug"}\n{"text": "bug 9", "label": "bill"}\n')
    asked = service.sgg("predict", "--model", model, "--file", path)
    assert asked.returncode == 0, asked.stderr
    given = [(row["text"], row["given_label"]) for row in map(json.loads, asked.stdout.splitlines())]
    assert given == [("bill 9", "bug"), ("bug 9", "bill")]
    again = service.sgg("jobs", "download", job_id, "--out", out)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_the_report_is_printed_or_written_and_jobs_are_compared(service, finished, tmp_path):
    job_id, _ = finished
    printed = service.sgg("jobs", "report", job_id)
    assert printed.returncode == 0 and "## How it was trained" in printed.stdout, printed.stderr
    report = service.sgg("jobs", "report", job_id, "--json")
    assert json.loads(report.stdout)["steps"] > 0, report.stderr
    page = tmp_path / "report.html"
    assert service.sgg("jobs", "report", job_id, "--format", "html", "--out", page).returncode == 0
    assert page.read_text().startswith("<!doctype html>") and "<svg" in page.read_text()
    compared = service.sgg("jobs", "compare", job_id, "ftjob-none")
    assert compared.returncode == 1 and "ftjob-none" in compared.stderr


def test_lists_and_details_name_the_job_and_its_files(service, finished):
    job_id, _ = finished
    job = service.sgg_json("jobs", "show", job_id)
    assert job["status"] == "succeeded"
    assert job_id in service.sgg("jobs", "list").stdout
    shown = service.sgg("jobs", "show", job_id).stdout
    assert job["fine_tuned_model"] in shown
    assert {job["training_file"], *job["result_files"]} <= {file["id"] for file in service.sgg_json("files", "list")}


def test_jobs_are_found_by_their_metadata_and_state(service, finished):
    example = EXAMPLES / "support_tickets.train.jsonl"
    wanted = ("--model", "all-minilm-l6-v2", "--train", example, "--metadata", "team=returns", "--metadata", "note=a=b")
    job = service.sgg_json("jobs", "submit", *wanted)
    service.sgg_json("jobs", "cancel", job["id"])
    service.sgg("jobs", "watch", job["id"])
    assert "team=returns" in service.sgg("jobs", "show", job["id"]).stdout

    def found(*options):
        return [each["id"] for each in service.sgg_json("jobs", "list", *options)]

    assert found("--metadata", "team=returns", "--metadata", "note=a=b") == [job["id"]]
    assert found("--metadata", "team=returns", "--status", "cancelled") == [job["id"]]
    assert found("--metadata", "team=returns", "--status", "succeeded") == []
    assert "No job matches." in service.sgg("jobs", "list", "--metadata", "team=none").stdout


def test_a_second_server_on_the_same_data_is_refused_with_the_first_ones_pid(service):
    second = service.sgg("serve", "--port", "0")
    assert second.returncode == 1
    assert f"pid {service.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken_is_told(service, tmp_path):
    taken = service.sgg("serve", "--port", service.port, "--data-dir", tmp_path / "other")
    assert taken.returncode == 1
    assert "--port" in taken.stderr


@pytest.mark.parametrize("key", ["wrong", "sgg_0000000000000000_wrong", "sgg__", " ", "schlüssel"])
def test_a_wrong_key_is_refused_and_told_where_keys_come_from(service, key):
    result = service.sgg("files", "list", SGG_API_KEY=key)
    assert result.returncode == 1
    assert "SGG_API_KEY" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "show", "ftjob-000000000000000000000000"),
        ("jobs", "watch", "ftjob-000000000000000000000000"),
        ("jobs", "cancel", "nonsense"),
        ("jobs", "download", "ftjob-000000000000000000000000", "--out", "/nonexistent/never"),
        ("files", "delete", "file-000000000000000000000000"),
        ("jobs", "submit", "-m", "tiny", "--train", "file-000000000000000000000000"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_an_unknown_id_is_one_clear_error(service, command):
    result = service.sgg(*command)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_an_unknown_base_model_is_answered_with_the_known_ones(service, tickets):
    result = service.sgg("jobs", "submit", "-m", "tinny", "--train", tickets)
    assert result.returncode == 1
    assert "'tiny'" in result.stderr


def test_a_bad_file_is_refused_with_all_its_problems(service, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"txet": "b", "label": "y"}\n{"text": "c"\n')
    result = service.sgg("files", "upload", path)
    assert result.returncode == 1
    assert "line 2" in result.stderr
    assert "line 3" in result.stderr


def test_texts_longer_than_the_context_are_counted_and_told(service, tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [{"text": "a few words " * (500 if n == 3 else 1) + str(n), "label": "ab"[n % 2]} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    watched = service.sgg("jobs", "watch", service.submit(path, *QUICK), "--json")
    assert watched.returncode == 0, watched.stderr
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    (told,) = [event for event in events if "cut" in event["message"]]
    assert (told["level"], "1 of 8 texts were too long" in told["message"]) == ("warn", True)
    assert "long.jsonl" in told["message"] and "task.max_tokens" in told["message"]


def test_a_running_job_cannot_be_downloaded_loses_no_file_and_outlives_its_watcher(service, tmp_path):
    job_id = service.submit(EXAMPLES / "support_tickets.train.jsonl", *LONG)
    service.wait_for_step(job_id, 1)

    early = service.sgg("jobs", "download", job_id, "--out", tmp_path / "early")
    assert early.returncode == 1
    assert "is running" in early.stderr
    assert not (tmp_path / "early").exists()

    training = service.sgg_json("jobs", "show", job_id)["training_file"]
    kept = service.sgg("files", "delete", training)
    assert kept.returncode == 1
    assert job_id in kept.stderr

    with service.sgg_background("jobs", "watch", job_id) as watcher:
        assert "step" in next(line for line in watcher.stdout if "step" in line)
        watcher.send_signal(signal.SIGINT)
        _, told = watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    assert f"sgg jobs watch {job_id}" in told
    assert service.sgg_json("jobs", "show", job_id)["status"] == "running"

    assert service.sgg("jobs", "cancel", job_id).returncode == 0
    assert service.sgg("jobs", "watch", job_id).returncode == 3
    again = service.sgg("jobs", "cancel", job_id)
    assert again.returncode == 1
    assert service.sgg("files", "delete", training).returncode == 0


def test_health_needs_no_key_and_covers_the_worker(service, finished):
    health = service.url.removesuffix("/v1") + "/health"
    assert httpx.get(f"{health}/live").status_code == 200
    ready = httpx.get(f"{health}/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"] == dict.fromkeys(("database", "object_store", "reaper", "worker"), "ok")


def test_training_without_a_service_writes_the_same_kind_of_directory(service, tickets, tmp_path):
    out = tmp_path / "adapter"
    files = ("--train", tickets, "--validation", tickets, "--source", tickets, "--source", tickets)
    options = ("--method", "sgg", "--seed", 7, *(part for setting in QUICK for part in ("--set", setting)))
    trained = service.sgg("train", "--model", "tiny", *files, *options, "--out", out)
    assert trained.returncode == 0, trained.stderr
    assert "step 6/6" in trained.stdout
    assert verify(out) > 5
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["type"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert json.loads((out / "report.json").read_text())
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in out.iterdir()}

    rows = [(row["text"], row["label"]) for row in map(json.loads, tickets.read_text().splitlines())]
    rows.append(("two\nlines", "bug"))
    table = tmp_path / "tickets.csv"
    lines = (f'"{text}",{label}\r\n' for text, label in (("text", "label"), *rows))
    table.write_bytes("".join(lines).encode("utf-8-sig"))
    predicted = service.sgg("predict", out, "--file", table)
    assert predicted.returncode == 0, predicted.stderr
    told = [(row["text"], row["given_label"]) for row in map(json.loads, predicted.stdout.splitlines())]
    assert told == rows
    table.write_text('text\n\n"two\nlines"\n" "\n')
    refused = service.sgg("predict", out, "--file", table)
    assert refused.returncode == 1
    assert "line 5, field 'text'" in refused.stderr and "Traceback" not in refused.stderr


def test_plain_lora_is_a_method(service, tickets, tmp_path):
    options = ("--method", "supervised", "--set", "optimization.max_steps=1", "--json")
    trained = service.sgg("train", "--model", "tiny", "--train", tickets, *options, "--out", tmp_path / "adapter")
    assert trained.returncode == 0, trained.stderr
    assert [json.loads(line)["type"] for line in trained.stdout.splitlines()][-1] == "finished"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"--model": "tinny"}, "'tinny' is not in the catalogue"),
        ({"--train": "absent.jsonl"}, "Check the path absent.jsonl"),
        ({"--validation": "absent.jsonl"}, "Check the path absent.jsonl"),
        ({"--source": "absent.jsonl"}, "Check the path absent.jsonl"),
        ({"--set": "optimization.learning_rate=-1"}, "optimization.learning_rate: Input should be greater than 0"),
        ({"--set": "lora.rnk=1"}, "There is no setting 'lora.rnk'"),
        ({"--method": "dpo"}, "'dpo' is not one of"),
        ({"--seed": "-1"}, "Invalid value for '--seed'"),
        ({"--out": "."}, ". exists already"),
        ({"--out": "/dev/null/adapter"}, "Cannot write /dev/null/adapter"),
        ({"--checkpoints": "/dev/null"}, "Give a place for --checkpoints"),
    ],
    ids=lambda part: " ".join(*part.items()) if isinstance(part, dict) else "",
)
def test_training_that_cannot_be_is_refused_at_once(service, tickets, tmp_path, wrong, says):
    given = {"--model": "tiny", "--train": tickets, "--out": tmp_path / "adapter"} | wrong
    refused = service.sgg("train", *(part for option in given.items() for part in option))
    assert refused.returncode in (1, 2)
    assert "rror" in refused.stderr and says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "adapter").exists()


def test_a_file_without_predictions_to_make_is_refused_before_torch_is_loaded(service, finished, tmp_path):
    out, rows = tmp_path / "adapter", tmp_path / "rows.jsonl"
    no_torch = tmp_path / "no-torch"
    no_torch.mkdir()
    (no_torch / "torch.py").write_text("raise SystemExit('torch was loaded')")
    path = f"{no_torch}:{service.environment['PYTHONPATH']}"
    service.sgg_json("jobs", "download", finished[0], "--out", out)
    assert "torch was loaded" in service.sgg("predict", out, "--text", "a", PYTHONPATH=path).stderr
    rows.write_text('{"text": "a"}\n{"txt": "b"}\n')
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"text\na,b\ncaf\xe9\n")
    files = (("--file", file) for file in (rows, broken, tmp_path / "absent"))
    for arguments in (*((out, *option) for option in files), (out,), (tmp_path, "--text", "a")):
        refused = service.sgg("predict", *arguments, PYTHONPATH=path)
        assert refused.returncode in (1, 2)
        assert refused.stderr.startswith("error: ")
        assert refused.stdout == ""


def test_interrupted_training_goes_on_from_its_checkpoint(service, tickets, tmp_path):
    out, kept = tmp_path / "adapter", tmp_path / "checkpoints"
    command = ("train", "--model", "tiny", "--train", tickets, "--out", out, "--checkpoints", kept, "--json")
    long_run = [part for setting in LONG for part in ("--set", setting)]
    with service.sgg_background(*command, *long_run) as process:
        assert next(line for line in process.stdout if '"type": "step"' in line)
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Stopped after step" in told
    stopped = json.loads(said.splitlines()[-1])
    assert stopped["type"] == "stopped"

    with service.sgg_background(*command, *long_run) as resumed:
        started = json.loads(next(line for line in resumed.stdout if '"type": "started"' in line))
    assert started["first_step"] == stopped["step"] + 1
