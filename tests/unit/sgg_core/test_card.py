"""The model card: honest figures, valid front matter, nothing that leaks or breaks the page."""

from dataclasses import dataclass

import pytest
import yaml

from sgg_core.card import escaped, render_card
from sgg_core.catalogue import BaseModelEntry, Catalogue, DirectorySource, HubSource
from sgg_core.evidence import Calibration, HardExample, against
from sgg_core.figures import Answers, Evaluation, classification_figures
from sgg_core.report import FinalFigures, TrainingReport, Verification
from sgg_core.significance import wilson_interval
from sgg_core.spec import TrainingSpec
from sgg_core.telemetry import Direction, SourceAlignment, Stability

SMOLLM = Catalogue.load().get("smollm2-135m-instruct")
LABELS = ["bug report", "billing"]


@dataclass
class File:
    role: str
    filename: str
    sha256: str
    examples: int


DATA = [File("training", "few.jsonl", "ab" * 32, 32), File("validation", "valid.jsonl", "cd" * 32, 20)]


def report(**changes):
    evaluation = classification_figures([0] * 10 + [1] * 10, [0] * 9 + [1] * 11, LABELS)
    fields = {
        "base_model": SMOLLM.name,
        "method": "sgg",
        "kind": "classification",
        "labels": LABELS,
        "seed": 7,
        "examples": 32,
        "validation_examples": 20,
        "source_examples": 0,
        "steps": 48,
        "epochs": 12,
        "batch_size": 8,
        "learning_rate": 5e-4,
        "trained_tokens": 12_345,
        "seconds": 61.2,
        "stopped_early": False,
        "kept_step": 48,
        "final": FinalFigures(train_loss=0.0312),
        "baseline": classification_figures([0] * 10 + [1] * 10, [0] * 20, LABELS),
        "evaluation": evaluation,
        "stability": Stability(
            log_norm_change_std=0.4, abnormal_share=0.0, clipped_share=0.0625, gradient_norm_mean=1.5
        ),
        "direction": Direction(batch_size=8, reference_cosine_mean=0.21, path_efficiency=0.4),
        "source": None,
        "verification": Verification(reloaded=True, probes=8, max_difference=0.0),
    }
    return TrainingReport(**(fields | changes))


def card(entry=SMOLLM, data=DATA, **changes):
    made = report(**changes)
    return render_card(made, TrainingSpec(base_model=entry.name, method=made.method), entry, data)


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_front_matter_is_what_peft_and_the_hub_read():
    assert front_matter(card()) == {
        "base_model": "smollm2-135m-instruct",
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["lora", "peft", "few-shot", "sgg"],
    }
    assert "supervised" in front_matter(card(method="supervised"))["tags"]
    hub = BaseModelEntry(name="q", kind="causal", source=HubSource(repo_id="Qwen/Qwen3-0.6B", revision="0" * 40))
    assert front_matter(card(hub))["base_model"] == "Qwen/Qwen3-0.6B"


def test_the_figures_stand_before_and_after_training_with_their_uncertainty():
    text = card()
    assert "| accuracy | 0.5000 | 0.9500 |" in text
    assert "| bug report | 1.0000 | 0.9000 | 0.9474 | 10 |" in text
    low, high = wilson_interval(0.95, 20)
    assert f"{low:.3f} to {high:.3f}" in text


def test_figures_that_the_training_file_flatters_are_told_as_such():
    assert "too good" not in card()
    told = "3 of them also in the training file, so these figures are too good"
    assert f"**{told}**:" in card(validation_examples_seen=3)


def test_without_a_validation_file_the_card_claims_nothing():
    text = card(evaluation=None, baseline=None)
    assert "nothing is known" in text
    assert "accuracy" not in text.split("## How it was trained")[0]


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_other_kinds_show_their_own_row_and_no_labels(kind):
    figures = report().evaluation.model_copy(update={"per_label": None, "confusion": None, "macro_f1": None})
    text = card(kind=kind, labels=[], evaluation=figures, baseline=None)
    assert {"completion": '{"prompt"', "chat": '{"messages"'}[kind] in text
    assert front_matter(text)["pipeline_tag"] == "text-generation"
    assert "Per label" not in text and "Labels:" not in text
    assert "| token accuracy | - | 0.9500 |" in text


def test_data_and_training_can_be_traced():
    source = SourceAlignment(cosine_mean=-0.125, conflict_share=0.5, weight_mean=0.1)
    text = card(source=source)
    for part in ("ab" * 32, "cd" * 32, "few.jsonl", "12,345", "| seed | 7 |", "6.2 %", "-0.1250", "50.0 %"):
        assert part in text
    assert "exactly the same answers" in text
    inexact = Verification(reloaded=False, probes=8, max_difference=2e-5)
    assert "within 2.0e-05" in card(verification=inexact)


def test_names_of_users_cannot_break_the_page_or_bring_html():
    evil = "a|b\n\n# <script>alert(1)</script> [x](http://x) `code`"
    figures = classification_figures([0, 1], [0, 1], [evil, "fine"])
    text = card(data=[File("training", evil, "ab" * 32, 3)], labels=[evil, "fine"], evaluation=figures)
    assert "<script>" not in text.replace("\\<script\\>", "")
    (row,) = [line for line in text.splitlines() if line.startswith("| training")]
    assert row.replace("\\|", "").count("|") == 5
    assert "\n# <" not in text
    assert escaped("a_b*c") == "a\\_b\\*c"


def test_a_directory_on_the_training_machine_stays_private(tmp_path):
    entry = BaseModelEntry(name="own", kind="encoder", source=DirectorySource(path=tmp_path / "secret"))
    text = card(entry)
    assert str(tmp_path) not in text
    assert "AutoModel.from_pretrained" in text and "head.safetensors" in text


def test_the_python_of_the_card_compiles():
    blocks = card().split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")


def test_verdict_hardest_examples_and_calibration_stand_in_the_card():
    gold, sure = [0] * 10 + [1] * 10, [0.9] * 20
    before = Answers(gold=gold, predicted=[0] * 20, gold_probability=sure, confidence=sure)
    after = Answers(gold=gold, predicted=gold, gold_probability=sure, confidence=sure)
    hard = HardExample(line=17, label="billing", predicted="bug report", probability=0.012)
    measured = Calibration(expected_error=0.123, bins=[])
    figures = [Evaluation(loss=0.5, accuracy=0.5, examples=20, answers=answers) for answers in (before, after)]
    worth = against("zero_shot", *figures, "the base model as it comes")
    shown = card(baselines=[worth], calibration=measured, hardest=[hard])
    assert "| the base model as it comes | 0.500 | +50.0 |" in shown
    assert "**The adapter is better than the base model as it comes on 20 validation examples (+50.0 points" in shown
    assert "| 17 | billing | bug report | 0.012 |" in shown
    assert "off by 0.123" in shown
    assert "was not measured" in card()
