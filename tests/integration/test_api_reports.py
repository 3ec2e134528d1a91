"""The report on a job's result in its three forms, and jobs side by side."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.testing import ApiServer, jsonl
from sgg_core.evidence import against
from sgg_core.figures import Answers, Evaluation
from sgg_core.report import ANSWERS, CARD, PAGE, REPORT, FinalFigures, TrainingReport, Verification
from sgg_core.significance import paired_difference
from sgg_core.telemetry import Direction, Stability
from sgg_store.objects import report_key

BILLS, BUGS = "billing", "bug report"


def evaluation(right: list[bool]) -> Evaluation:
    predicted = [0 if hit else 1 for hit in right]
    sure = [0.9] * len(right)
    answers = Answers(gold=[0] * len(right), predicted=predicted, gold_probability=sure, confidence=sure)
    return Evaluation(loss=0.5, accuracy=sum(right) / len(right), examples=len(right), answers=answers)


def report(right: list[bool], validation: str) -> TrainingReport:
    found = evaluation(right)
    return TrainingReport(
        **{"base_model": "smollm2-135m-instruct", "method": "sgg", "kind": "classification", "labels": [BILLS, BUGS]},  # type: ignore[arg-type]
        **{"seed": 7, "examples": 32, "validation_examples": len(right), "source_examples": 0, "steps": 4},  # type: ignore[arg-type]
        **{"epochs": 1, "batch_size": 8, "learning_rate": 5e-4, "trained_tokens": 9, "seconds": 1.0},  # type: ignore[arg-type]
        stopped_early=False,
        kept_step=4,
        validation_sha256=validation,
        final=FinalFigures(train_loss=0.1, valid_loss=0.5, valid_accuracy=found.accuracy),
        baseline=evaluation([False] * len(right)),
        evaluation=found,
        baselines=[against("zero_shot", evaluation([False] * len(right)), found, "the base model as it comes")],
        stability=Stability(log_norm_change_std=0.4, abnormal_share=0.0, clipped_share=0.0, gradient_norm_mean=1.5),
        direction=Direction(batch_size=8, reference_cosine_mean=0.2, path_efficiency=0.4),
        source=None,
        verification=Verification(reloaded=True, probes=8, max_difference=0.0),
    )


def finished(server: ApiServer, right: list[bool], validation: str = "ab", **request: Any) -> str:
    job_id = server.job_id(**request)
    worker = server.claim(job_id)
    for step in (1, 2):
        worker.step(step)
    rows = [{"line": n, "label": BILLS, "predicted": BILLS if hit else BUGS} for n, hit in enumerate(right)]
    parts = {
        REPORT: report(right, validation).model_dump_json(),
        CARD: "# A card\n",
        PAGE: "<!doctype html><title>a card</title>",
        ANSWERS: "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in parts.items():
        server.objects.put(report_key(worker.lease, name), text.encode())
    worker.succeed({"metrics.csv": b"step\n"})
    return job_id


def text_finished(server: ApiServer, losses: list[float], tokens: int = 4) -> str:
    """A job on texts, with its report and the loss per token of each validation example."""
    job_id = server.job_id()
    worker = server.claim(job_id)
    rows = [{"line": n, "loss": loss, "tokens": tokens} for n, loss in enumerate(losses)]
    told = report([True] * len(losses), "ab").model_copy(update={"kind": "chat", "labels": [], "baselines": []})
    parts = {REPORT: told.model_dump_json(), ANSWERS: "".join(json.dumps(row) + "\n" for row in rows)}
    for name, text in parts.items():
        server.objects.put(report_key(worker.lease, name), text.encode())
    worker.succeed({"metrics.csv": b"step\n"})
    return job_id


def compare(server: ApiServer, *ids: str) -> Any:
    with server.http() as http:
        return http.get("/v1/fine_tuning/compare", params={"jobs": ",".join(ids)})


def test_the_report_comes_in_three_forms_that_run_nothing(api_server: ApiServer) -> None:
    job_id = finished(api_server, [True] * 20)
    path = f"/v1/fine_tuning/jobs/{job_id}/report"
    with api_server.http() as http:
        found = http.get(path).json()
        assert found["baselines"][0]["comparison"]["difference"] == 1.0
        assert "is better than" in found["baselines"][0]["comparison"]["verdict"]
        assert http.get(path, params={"format": "markdown"}).text == "# A card\n"
        page = http.get(path, params={"format": "html"})
        assert page.headers["content-type"].startswith("text/html") and "<title>" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none';")
        assert http.get(path, params={"format": "pdf"}).json()["error"]["param"] == "format"


def test_a_job_without_a_report_says_why(api_server: ApiServer) -> None:
    waiting = api_server.job_id()
    old = api_server.job_id()
    api_server.claim(old).succeed({"metrics.csv": b"step\n"})
    with api_server.http() as http:
        for job_id, reason in ((waiting, "queued"), (old, "older version")):
            answer = http.get(f"/v1/fine_tuning/jobs/{job_id}/report")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_report")
            assert reason in answer.json()["error"]["message"]


def test_jobs_are_compared_by_choices_curves_and_answers(api_server: ApiServer) -> None:
    training = api_server.file_id()
    good = finished(api_server, [True] * 20, training_file=training, seed=1)
    poor = finished(api_server, [True] * 8 + [False] * 12, training_file=training, seed=2)
    found = compare(api_server, good, poor).json()
    assert [job["id"] for job in found["jobs"]] == [good, poor]
    assert found["spec_differences"] == [{"field": "seed", "values": {good: 1, poor: 2}}]
    assert found["curves"]["train_loss"] == {good: [[1, 1.0], [2, 0.5]], poor: [[1, 1.0], [2, 0.5]]}
    (pair,) = found["paired"]
    assert (pair["a"], pair["b"], pair["items"], pair["difference"]) == (good, poor, 20, 0.6)
    assert 0.3 < pair["low"] < 0.6 < pair["high"]
    names = [job["name"] for job in found["jobs"]]
    assert pair["verdict"].startswith('"{}" is better than "{}" on 20 '.format(*names))


def test_jobs_on_texts_are_compared_by_their_loss_per_token(api_server: ApiServer) -> None:
    good, poor = text_finished(api_server, [1.0] * 12), text_finished(api_server, [1.5] * 12)
    (pair,) = compare(api_server, good, poor).json()["paired"]
    assert (pair["metric"], pair["difference"], pair["items"]) == ("loss", -0.5, 12)
    assert "is better than" in pair["verdict"] and "loss per token -0.500" in pair["verdict"]
    other = text_finished(api_server, [1.0] * 12, tokens=5)
    (pair,) = compare(api_server, good, other).json()["paired"]
    assert pair["difference"] is None and "different tokens" in pair["verdict"]


def test_comparisons_that_take_long_keep_nobody_else_waiting(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def late(*given: Any) -> Any:
        assert go_on.wait(60)
        return paired_difference(*given)

    ids = finished(api_server, [True] * 8), finished(api_server, [True] * 8)
    monkeypatch.setattr("api.comparisons.service.paired_difference", late)
    with ThreadPoolExecutor(50) as pool:  # more than the server has threads
        comparisons = [pool.submit(compare, api_server, *ids) for _ in range(50)]
        try:
            time.sleep(3)
            with api_server.http() as http:
                assert http.get("/v1/fine_tuning/jobs", timeout=30).status_code == 200
            assert not any(comparison.done() for comparison in comparisons)
        finally:
            go_on.set()
        assert {comparison.result().status_code for comparison in comparisons} == {200}


def test_what_cannot_be_paired_is_told_in_words(api_server: ApiServer) -> None:
    one, other = finished(api_server, [True] * 8), finished(api_server, [True] * 8, validation="cd")
    waiting = api_server.job_id()
    found = compare(api_server, one, other, waiting).json()
    pairs, names = found["paired"], [job["name"] for job in found["jobs"]]
    assert names == [*(api_server.job(job_id)["fine_tuned_model"] for job_id in (one, other)), None]
    assert [pair["difference"] for pair in pairs] == [None] * 3
    assert "different validation files" in pairs[0]["verdict"]
    assert all(f"{waiting} is queued" in pair["verdict"] for pair in pairs[1:])


@pytest.mark.parametrize("ids", [("one",), ("same", "same"), tuple("abcdefghi"), (",,",)])
def test_too_few_and_too_many_jobs_are_refused(api_server: ApiServer, ids: tuple[str, ...]) -> None:
    answer = compare(api_server, *ids)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "jobs")


def test_a_retention_file_is_told_back_kept_while_needed_and_checked(api_server: ApiServer) -> None:
    kept = api_server.file_id(jsonl({"prompt": "a", "completion": " b"}))
    settings = {"type": "sgg", "sgg": {"retention_file": kept}}
    job_id = api_server.job_id(method=settings)
    assert api_server.job(job_id)["method"]["sgg"]["retention_file"] == kept
    with api_server.http() as http:
        assert http.delete(f"/v1/files/{kept}").json()["error"]["code"] == "file_in_use"
    one_label = api_server.file_id(jsonl({"text": "a", "label": "x"}, {"text": "b", "label": "x"}))
    for file_id in (kept, one_label):
        refused = api_server.create_job(
            model="all-minilm-l6-v2",
            training_file=api_server.file_id(),
            method={"type": "sgg", "sgg": {"retention_file": file_id}},
        ).json()["error"]
        assert (refused["code"], refused["param"]) == ("invalid_retention_file", "method.sgg.retention_file")
    missing = api_server.create_job(
        model="all-minilm-l6-v2",
        training_file=api_server.file_id(),
        method={"type": "sgg", "sgg": {"retention_file": "x"}},
    ).json()["error"]
    assert (missing["code"], missing["param"]) == ("file_not_found", "method.sgg.retention_file")
