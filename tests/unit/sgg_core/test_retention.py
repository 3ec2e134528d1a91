"""What is forgotten: measured before and after, on examples that are never trained on, and told in words."""

import json

import pytest

from sgg_core.errors import CheckpointError, RetentionFileError
from sgg_core.figures import Answers, Evaluation
from sgg_core.forgetting import retained
from sgg_core.reporting import SilentReporter
from sgg_core.retention import RetentionSet
from sgg_core.trainer import train

COLOURS = [{"text": f"{word} {n}", "label": word} for n in range(3) for word in ("red", "blue")]
TALK = [{"prompt": f"number {n}:", "completion": f" {n}"} for n in range(4)]


def text(loss):
    return Evaluation(loss=loss, accuracy=0.5, examples=4)


def labelled(hits):
    answers = Answers(gold=[0] * 20, predicted=[0] * hits + [1] * (20 - hits), gold_probability=[0.5] * 20,
                      confidence=[0.5] * 20)  # fmt: skip
    return Evaluation(loss=0.5, accuracy=hits / 20, examples=20, answers=answers)


def test_a_rise_of_the_loss_is_forgetting_and_a_small_one_is_not():
    assert (
        "rose from 2.000 to 2.200 (+10.0 %): some of what it knew was forgotten" in retained(text(2), text(2.2)).verdict
    )
    assert "fell from 2.000 to 1.000 (-50.0 %): nothing to speak of" in retained(text(2), text(1)).verdict
    assert retained(text(2), text(2.02)).verdict.endswith("nothing to speak of was forgotten.")


def test_accuracy_is_compared_example_by_example():
    found = retained(labelled(20), labelled(5))
    assert (found.measure, found.before, found.after, found.comparison.losses) == ("accuracy", 1.0, 0.25, 15)
    assert found.verdict.startswith(
        "The model after it is worse than the model before training on 20 retention examples"
    )
    assert "No difference" in retained(labelled(20), labelled(19)).verdict


def test_a_run_measures_before_and_after_and_says_so(base, training, file_of, spec_for, tmp_path):
    reporter = SilentReporter()
    rows = COLOURS if base.entry.kind == "encoder" else TALK
    data = file_of(rows, "other.jsonl")
    directory = tmp_path / "a"
    train(spec_for(base), base, training, retention=data, output=directory, reporter=reporter)
    report = json.loads((directory / "report.json").read_text())["retention"]
    before = RetentionSet(base, data, 512).measure()  # the base model is as it was
    measured = before.accuracy if report["measure"] == "accuracy" else before.loss
    assert report["before"] == pytest.approx(measured, abs=1e-5) and report["examples"] == len(rows)
    assert report["verdict"] in [message.message for message in reporter.messages if message.type == "notice"]
    assert report["verdict"].split(" (")[0] in (directory / "README.md").read_text()
    manifest = json.loads((directory / "sgg.json").read_text())
    assert [entry["role"] for entry in manifest["data"]] == ["training", "retention"]


def test_the_training_is_the_same_with_and_without_it(causal, training, file_of, spec_for, tmp_path, adapter_bytes):
    for name, data in (("with", file_of(COLOURS)), ("without", None)):
        train(spec_for(causal), causal, training, retention=data, output=tmp_path / name, reporter=SilentReporter())
    assert adapter_bytes(tmp_path / "with") == adapter_bytes(tmp_path / "without")


def test_a_run_is_resumed_with_its_own_retention_file_only(causal, training, file_of, spec_for, tmp_path):
    spec = spec_for(causal, optimization={"max_steps": 2})
    how = {"output": tmp_path / "out", "checkpoints": tmp_path / "c", "reporter": SilentReporter()}
    train(spec, causal, training, retention=file_of(COLOURS), with_documents=False, **how)
    for other in (file_of(TALK), None):
        with pytest.raises(CheckpointError, match=r"belongs to another run\. These differ: retention"):
            train(spec, causal, training, retention=other, resume_from=tmp_path / "c" / "step-00000002", **how)


def test_examples_that_cannot_be_asked_are_refused(encoder, file_of):
    with pytest.raises(RetentionFileError, match=r"other\.jsonl"):
        RetentionSet(encoder, file_of(TALK, "other.jsonl"), 512)
    with pytest.raises(RetentionFileError, match="All examples have the label"):
        RetentionSet(encoder, file_of([{"text": text, "label": "a"} for text in "xyz"], "other.jsonl"), 512)
    with pytest.raises(RetentionFileError, match="only one example"):
        RetentionSet(encoder, file_of(COLOURS[:3], "other.jsonl"), 512)
