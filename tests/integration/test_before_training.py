"""Dry runs and previews over HTTP, read by a real worker: what they foretell is what the training then does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select

from api.settings import ApiSettings
from api.testing import ApiServer, jsonl, serving
from sgg_core.catalogue import Catalogue
from sgg_core.reporting import MemoryNeed
from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from sgg_store.objects import file_key
from sgg_store.records import AuditRecord, JobRecord, TrialRecord
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import TWO_LABELS, Workbench

HELD_OUT = jsonl(
    *({"text": f"example {n} unseen and {word}", "label": word} for n in range(6) for word in ("good", "bad"))
)
CHATS = jsonl(
    {
        "messages": [
            {"role": "user", "content": "say one"},
            {"role": "assistant", "content": "one", "weight": 0},
            {"role": "user", "content": "say two"},
            {"role": "assistant", "content": "two"},
        ]
    },
    {"messages": [{"role": "user", "content": "say three"}, {"role": "assistant", "content": "three"}]},
)
PROMPTS = jsonl(*({"prompt": f"number {n}:", "completion": f" {n}"} for n in range(4)))
QUICK = {"max_steps": 3, "batch_size": 4}


@dataclass
class Site:
    bench: Workbench
    worker: EmbeddedWorker
    server: ApiServer

    def dry_run(self, key: str | None = None, **body: Any) -> dict[str, Any]:
        with self.server.http(key) as http:
            answer = http.post("/v1/fine_tuning/jobs", params={"dry_run": "true"}, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def preview(self, content: bytes, model: str = "tiny-causal", **body: Any) -> dict[str, Any]:
        with self.server.http() as http:
            file_id = self.server.file_id(content)
            answer = http.post("/v1/fine_tuning/preview", json={"model": model, "training_file": file_id, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def count(self, record: Any) -> int:
        with self.bench.database.read() as session:
            return session.execute(select(func.count()).select_from(record)).scalar_one()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "causal"))
        Catalogue.load(bench.settings.data_dir).add(save_tiny_base(directory / "encoder", "encoder"))
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        with serving(ApiSettings(data_dir=bench.settings.data_dir)) as server:
            yield Site(bench, worker, server)
        worker.stop()
        bench.close()


@pytest.mark.parametrize(
    ("model", "training", "method"),
    [
        ("tiny-causal", TWO_LABELS, "sgg"),
        ("tiny-encoder", TWO_LABELS, "supervised"),
        ("tiny-causal", CHATS, "supervised"),
        ("tiny-causal", PROMPTS, "sgg"),
    ],
    ids=["label words", "encoder", "chats", "completions"],
)
def test_what_a_dry_run_foretells_is_what_the_training_does(
    site: Site, model: str, training: bytes, method: str
) -> None:
    settings = {"type": method, method: {"hyperparameters": QUICK}}
    body = {"model": model, "training_file": site.server.file_id(training), "method": settings, "seed": 3}
    told = site.dry_run(**body)
    assert told["valid"] and not [each for each in told["findings"] if each["severity"] == "error"], told["findings"]
    with site.server.http() as http:
        job_id = http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    site.worker.ring(job_id)
    job = site.bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert told["estimate"]["steps"] == job.total_steps
    assert told["estimate"]["tokens"] == job.trained_tokens
    started = next(event for event in site.bench.events(job_id) if "trainable_parameters" in event.data).data
    resolved = told["hyperparameters"]
    assert (resolved["batch_size"], resolved["n_epochs"]) == (started["batch_size"], started["epochs"])
    assert [resolved["learning_rate"]] == started["learning_rates"]
    assert started["reference"]["steps"] > 0 and started["reference"]["fixed"] > 0
    assert told["estimate"]["peak_memory_bytes"] > 0
    seconds = told["estimate"]["seconds"]
    assert 0 < seconds["low"] <= seconds["expected"] <= seconds["high"]


def foretold_and_needed(site: Site, hyperparameters: dict[str, Any], **files: str) -> tuple[int, list[MemoryNeed]]:
    """The peak memory that a dry run tells, and what each group of replicas says it needs. Steps and tokens agree."""
    body = {
        "model": "tiny-causal",
        "training_file": site.server.file_id(TWO_LABELS),
        "method": {"type": "sgg", "sgg": {"hyperparameters": QUICK | hyperparameters}},
        "seed": 3,
        **files,
    }
    told = site.dry_run(**body)["estimate"]
    with site.server.http() as http:
        job_id = http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    site.worker.ring(job_id)
    job = site.bench.wait_for_end(job_id)
    assert (told["steps"], told["tokens"]) == (job.total_steps, job.trained_tokens)
    needs = [MemoryNeed(**event.data["memory"]) for event in site.bench.events(job_id) if "memory" in event.data]
    return told["peak_memory_bytes"], needs


def test_a_dry_run_counts_the_work_of_all_replicas(site: Site) -> None:
    replicas = {"seeds": 2, "learning_rate": [0.001, 0.002]}
    peak, (need,) = foretold_and_needed(site, replicas, validation_file=site.server.file_id(TWO_LABELS))
    assert need.replicas == 4 and peak == need.alone


def test_a_dry_run_counts_the_work_of_folds(site: Site) -> None:
    peak, (first, then) = foretold_and_needed(site, {"folds": 3, "learning_rate": [0.001, 0.002], "seeds": 2})
    assert (first.replicas, then.replicas) == (6, 2)
    assert peak == pytest.approx(first.alone, rel=1e-3)  # a fold's batches are others


def test_a_retention_file_is_read_as_the_trainer_reads_it(site: Site) -> None:
    def told(retention: bytes) -> dict[str, Any]:
        settings = {"hyperparameters": QUICK, "retention_file": site.server.file_id(retention)}
        training = site.server.file_id(TWO_LABELS)
        return site.dry_run(model="tiny-causal", training_file=training, method={"type": "sgg", "sgg": settings})

    assert told(PROMPTS)["valid"]
    refused = told(jsonl({"prompt": "long", "completion": "word " * 700}))
    (error,) = [each for each in refused["findings"] if each["severity"] == "error"]
    expected = ("invalid_retention_file", "method.sgg.retention_file", 1)
    assert (error["code"], error["param"], error["line"]) == expected and not refused["valid"]


NINE_LABELS = jsonl(*({"text": f"{word} {label}", "label": label} for label in "abcdefghi" for word in ("a", "the")))


@pytest.mark.parametrize("content", [TWO_LABELS, NINE_LABELS])
@pytest.mark.parametrize("model", ["tiny-causal", "tiny-encoder"])
def test_the_resolved_hyperparameters_are_a_request_that_means_the_same(model: str, content: bytes, site: Site) -> None:
    file_id = site.server.file_id(content)
    told = site.dry_run(model=model, training_file=file_id, method={"type": "sgg"})
    again = {"type": "sgg", "sgg": {"hyperparameters": told["hyperparameters"]}}
    repeated = site.dry_run(model=model, training_file=file_id, method=again)
    assert repeated["valid"] and repeated["hyperparameters"] == told["hyperparameters"]
    assert repeated["estimate"] == told["estimate"] | {"seconds": repeated["estimate"]["seconds"]}
    objective = "contrast" if content is TWO_LABELS else None  # with names that tell, or without
    assert model == "tiny-causal" or told["hyperparameters"]["task"].get("objective") == objective
    assert "auto" not in json.dumps(told["hyperparameters"])


def test_a_dry_run_keeps_nothing(site: Site) -> None:
    file_id = site.server.file_id(TWO_LABELS)
    kept = [site.count(record) for record in (JobRecord, AuditRecord, TrialRecord)]
    site.dry_run(model="tiny-causal", training_file=file_id)
    site.dry_run(model="no-such-model", training_file="file-none")
    assert [site.count(record) for record in (JobRecord, AuditRecord, TrialRecord)] == kept


def test_everything_that_is_wrong_or_suspicious_is_told_at_once(site: Site) -> None:
    training = jsonl(
        {"text": "a fine and good day out with all of them", "label": "good"},
        {"text": "a fine and good day out with all of them", "label": "bad"},
        {"text": "word " * 700, "label": "bad"},
        *({"text": f"another {n} of the good kind", "label": "good"} for n in range(12)),
    )
    held_out = jsonl(
        {"text": "a fine and good day out with all of them", "label": "good"},
        {"text": "never seen", "label": "unheard"},
    )
    told = site.dry_run(
        site.server.new_key(["jobs:write"]),
        model="tiny-causal",
        training_file=site.server.file_id(training),
        validation_file=site.server.file_id(held_out),
        integrations=[{"type": "wandb"}],
        method={"type": "supervised", "supervised": {"hyperparameters": {"guidance": {}}, "priority": 5}},
    )
    assert not told["valid"]
    found = {(each["severity"], each["code"], each["param"], each["line"]) for each in told["findings"]}
    assert {
        ("error", "unsupported_parameter", "integrations", None),
        ("error", "conflicting_parameters", "method.supervised.hyperparameters.guidance", None),
        ("error", "insufficient_permissions", "method.supervised.priority", None),
        ("error", "invalid_validation_file", "validation_file", 2),
        ("warning", "suspicious_data", "training_file", 2),  # two labels
        ("warning", "suspicious_data", "training_file", 3),  # cut
        ("warning", "suspicious_data", "training_file", None),  # many good ones, few bad ones
        ("warning", "suspicious_data", "validation_file", 1),  # in the training file, too
    } <= found
    assert told["data"]["truncated"] == 1 and told["data"]["labels"] == {"good": 13, "bad": 2}
    assert all(each["reason"] and each["remedy"] for each in told["findings"])


def test_examples_that_only_the_tokenizer_shows_to_be_wrong_are_errors(site: Site) -> None:
    training = jsonl({"prompt": "a", "completion": "b"}, {"prompt": "long", "completion": "word " * 700})
    told = site.dry_run(model="tiny-causal", training_file=site.server.file_id(training))
    (error,) = [each for each in told["findings"] if each["severity"] == "error"]
    assert (error["code"], error["line"]) == ("invalid_training_file", 2) and "tokens" in error["reason"]
    assert not told["valid"] and told["estimate"]["tokens"] is None
    assert told["data"] == {"examples": 2, "labels": {}, "tokens": None, "truncated": None}  # not 0


def test_a_long_chat_fits_where_the_base_model_sees_it_and_nobody_set_a_limit(site: Site) -> None:
    turns = [{"role": "system", "content": "word " * 140}, {"role": "user", "content": "hi"}]
    training = jsonl(*({"messages": [*turns, {"role": "assistant", "content": f"{number}"}]} for number in range(4)))
    body: dict[str, Any] = {"model": "tiny-causal", "training_file": site.server.file_id(training)}
    told = site.dry_run(**body)
    assert told["valid"] and told["hyperparameters"]["task"]["max_tokens"] == 1024 and told["data"]["tokens"] > 4 * 700
    assert [each["problem"] for each in site.preview(training)["data"]] == [None] * 4
    limited = {"type": "supervised", "supervised": {"hyperparameters": {"task": {"max_tokens": 512}}}}
    told = site.dry_run(**body, method=limited)
    errors = [each for each in told["findings"] if each["severity"] == "error"]
    assert [each["line"] for each in errors] == [1, 2, 3, 4] and "at most 512 fit" in errors[0]["reason"]
    assert errors[0]["remedy"].endswith("raise hyperparameters.task.max_tokens, which is 512.")
    assert told["hyperparameters"]["task"]["max_tokens"] == 512


def test_a_validation_file_tells_what_it_can_show(site: Site) -> None:
    files = {"training_file": site.server.file_id(TWO_LABELS), "validation_file": site.server.file_id(HELD_OUT)}
    assert site.dry_run(model="tiny-causal", **files)["smallest_difference"] == 6 / 12
    assert site.dry_run(model="tiny-causal", training_file=files["training_file"])["smallest_difference"] is None


@pytest.mark.parametrize(
    ("content", "model", "shown", "trained"),
    [
        (CHATS, "tiny-causal", ["say one", "say two"], ["two<|end|>\n"]),
        (PROMPTS, "tiny-causal", ["number 0:"], [" 0<|end|>"]),
        (TWO_LABELS, "tiny-encoder", ["example 0 fine and good"], []),
    ],
    ids=["chats", "completions", "encoder"],
)
def test_a_preview_marks_what_is_trained(
    site: Site, content: bytes, model: str, shown: list[str], trained: list[str]
) -> None:
    told = site.preview(content, model, limit=2)
    assert len(told["data"]) == 2 and told["trained"].endswith(".")
    first = told["data"][0]
    assert [segment["text"] for segment in first["segments"] if segment["trained"]] == trained
    assert first["line"] == 1 and not first["truncated"] and first["problem"] is None
    assert (first["trained_tokens"] > 0) == bool(trained)
    whole = "".join(segment["text"] for segment in first["segments"])
    assert [part for part in shown if part not in whole] == []


def test_a_preview_of_label_words_shows_prompt_and_label(site: Site) -> None:
    first, *_ = site.preview(TWO_LABELS)["data"]
    prompt, answer = first["segments"]
    assert not prompt["trained"] and "example 0 fine and good" in prompt["text"] and first["label"] == "good"
    shown = prompt["text"] + answer["text"]
    assert answer["trained"] and "Label: good".startswith(shown[shown.rindex("Label:") :])


def test_a_preview_marks_what_is_cut_and_what_is_refused(site: Site) -> None:
    cut = site.preview(jsonl({"text": "word " * 700, "label": "a"}, {"text": "short", "label": "b"}))["data"]
    assert [each["truncated"] for each in cut] == [True, False]
    refused = site.preview(jsonl({"prompt": "long", "completion": "word " * 700}))["data"]
    assert "tokens" in refused[0]["problem"]["reason"]


def test_a_preview_of_bytes_that_have_changed_is_refused(site: Site) -> None:
    file_id = site.server.file_id(CHATS)
    site.bench.objects.put(file_key(file_id), PROMPTS, create_only=False)
    with site.server.http() as http:
        answer = http.post("/v1/fine_tuning/preview", json={"model": "tiny-causal", "training_file": file_id})
    assert answer.status_code == 503 and "have changed" in answer.json()["error"]["message"]


def test_a_preview_that_cannot_be_made_says_why(site: Site) -> None:
    file_id = site.server.file_id(CHATS)
    with site.server.http() as http:
        answer = http.post("/v1/fine_tuning/preview", json={"model": "tiny-encoder", "training_file": file_id})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_task")
        answer = http.post("/v1/fine_tuning/preview", json={"training_file": file_id, "limit": 0})
        assert [each["param"] for each in answer.json()["error"]["sgg"]["problems"]] == ["model", "limit"]


@pytest.mark.parametrize("model", ["tiny-causal", "tiny-encoder"])
def test_a_job_lists_its_examples_by_suspicion(site: Site, model: str) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": QUICK}}
    file_id = site.server.file_id(TWO_LABELS)
    with site.server.http() as http:
        job_id = http.post(
            "/v1/fine_tuning/jobs", json={"model": model, "training_file": file_id, "method": method}
        ).json()["id"]
        path = f"/v1/fine_tuning/jobs/{job_id}/examples"
        site.worker.ring(job_id)
        site.bench.wait_for_end(job_id)
        told = http.get(path, params={"limit": 5}).json()
        assert told["object"] == "list" and told["has_more"] and len(told["data"]) == 5
        every = http.get(path, params={"limit": 100}).json()["data"]
        assert sorted(each["line"] for each in every) == list(range(1, 17))
        assert every[:5] == told["data"]
        for each in every:
            word = "fine and good" if each["label"] == "good" else "poor and bad"
            assert each["text"] == f"example {(each['line'] - 1) // 2} {word}"
            assert 0 <= each["suspicion"] <= 1 and -1 <= each["gradient_agreement"] <= 1 and each["reason"]
        http.delete(f"/v1/files/{file_id}")
        assert {each["text"] for each in http.get(path).json()["data"]} == {None}


def test_jobs_whose_labels_were_not_judged_say_so(site: Site) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": QUICK}}
    with site.server.http() as http:
        body = {"model": "tiny-causal", "training_file": site.server.file_id(PROMPTS), "method": method}
        job_id = http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
        path = f"/v1/fine_tuning/jobs/{job_id}/examples"
        assert http.get(path).json()["error"]["code"] == "no_report"
        site.worker.ring(job_id)
        site.bench.wait_for_end(job_id)
        error = http.get(path).json()["error"]
    assert error["code"] == "no_report" and "That is done only for classification" in error["message"]


def test_settings_that_only_the_base_model_shows_to_be_wrong_are_errors(site: Site) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"lora": {"targets": ["nowhere"]}}}}
    told = site.dry_run(model="tiny-causal", training_file=site.server.file_id(PROMPTS), method=method)
    (found,) = told["findings"]
    assert not told["valid"], found
    assert (found["severity"], found["code"]) == ("error", "invalid_hyperparameters")
    assert found["param"] == "method.supervised.hyperparameters" and "nowhere" in found["reason"]


def test_without_a_worker_a_dry_run_still_tells_what_it_can(api_settings: ApiSettings) -> None:
    with serving(api_settings.model_copy(update={"trial_seconds": 0.2})) as server, server.http() as http:
        body = {"model": "all-minilm-l6-v2", "training_file": server.file_id(TWO_LABELS)}
        told = http.post("/v1/fine_tuning/jobs?dry_run=true", json=body).json()
    assert told["valid"] and told["estimate"]["steps"] == 56 and told["estimate"]["tokens"] is None
    assert [each["code"] for each in told["findings"]] == ["not_surveyed"]
    assert told["queue"]["position"] == 1
