"""What a run's gradients are of: contrast for an encoder under guidance, the task's own loss for all else."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import trainer
from sgg_core.catalogue import Catalogue
from sgg_core.errors import SpecError
from sgg_core.plan import make_plan, objective_of
from sgg_core.predictor import load_predictor
from sgg_core.reporting import SilentReporter, Started
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.label_names import label_names, with_names
from sgg_core.tasks.pooled_head import logistic_regression

train = partial(trainer.train, with_documents=False)  # nobody reads them here

CONTRAST, OWN_LOSS = ("contrast", "auto"), ("cross_entropy", False)


@pytest.mark.parametrize(
    ("fields", "kind", "labels", "expected"),
    [
        ({}, "encoder", 8, CONTRAST),
        ({}, "encoder", 9, ("cross_entropy", "auto")),  # no batch would hold two of each
        ({"task": {"label_names": False}}, "encoder", 9, OWN_LOSS),
        ({"task": {"objective": "contrast"}}, "encoder", 9, CONTRAST),
        ({}, "causal", 2, OWN_LOSS),
        ({"method": "supervised"}, "encoder", 2, OWN_LOSS),
        ({"guidance": {"variant": "off"}}, "encoder", 2, OWN_LOSS),
        ({"method": "supervised", "task": {"objective": "contrast"}}, "encoder", 2, CONTRAST),
        ({"task": {"objective": "cross_entropy"}}, "encoder", 2, OWN_LOSS),
        ({"task": {"objective": "cross_entropy", "label_names": True}}, "encoder", 2, ("cross_entropy", True)),
        ({"method": "supervised", "task": {"label_names": True}}, "encoder", 2, ("cross_entropy", True)),
        ({"task": {"label_names": True}}, "causal", 2, OWN_LOSS),
    ],
)
def test_auto_is_contrast_for_guided_encoders_of_few_labels_only(fields, kind, labels, expected):
    spec = TrainingSpec.model_validate({"base_model": "tiny", **fields})
    assert objective_of(spec, kind, 10 * labels, labels) == expected


@pytest.mark.parametrize(("names", "expected"), [(False, OWN_LOSS), (True, ("contrast", True)), ("auto", CONTRAST)])
@pytest.mark.parametrize("objective", ["auto", "contrast"])
def test_single_examples_without_names_learn_by_cross_entropy_for_as_long_as_it_takes(names, expected, objective):
    task = {"label_names": names, "objective": objective}
    spec = TrainingSpec.model_validate({"base_model": "tiny", "task": task})
    assert objective_of(spec, "encoder", 6, 6) == expected
    own = spec.model_copy(update={"task": spec.task.model_copy(update={"objective": "cross_entropy"})})
    as_long = make_plan(spec, "encoder", 6, 6).total_steps == make_plan(own, "encoder", 6, 6).total_steps
    assert as_long == (names is False)


def test_after_contrast_the_head_is_the_probe_of_the_features_that_the_adapter_ended_with(
    encoder, training, spec_for, tmp_path
):
    spec = spec_for(encoder, task={"objective": "contrast", "label_names": True})
    train(spec, encoder, training, output=tmp_path / "out", reporter=SilentReporter())
    predictor = load_predictor(tmp_path / "out", catalogue=Catalogue.load(), base=encoder)
    task = predictor.task
    items = task.encode([ClassificationExample(e.text, e.label) for e in training.classification])
    items = with_names(items, label_names(task))
    with torch.no_grad():
        features = task.features(items)
    predictor.close()
    probe = torch.nn.Linear(*reversed(task.linear.weight.shape))
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    logistic_regression(probe, features, torch.tensor([item.label for item in items]))
    saved = load_file(tmp_path / "out" / "head.safetensors")
    assert torch.allclose(saved["weight"], probe.weight, atol=1e-3)


class FirstStep(SilentReporter):
    """Ends a run before its first step."""

    def control(self):
        return "cancel" if any(isinstance(message, Started) for message in self.messages) else "continue"


@pytest.mark.parametrize(
    ("objective", "validated", "looks"),
    [("contrast", False, False), ("contrast", True, True), ("cross_entropy", False, True)],
)
def test_a_run_begins_without_a_pass_where_nobody_asks_the_head_before_its_end(
    objective, validated, looks, encoder, training, validation, spec_for
):
    passes = []
    seen = encoder.model.register_forward_hook(lambda *_: passes.append(1))
    spec = spec_for(encoder, task={"objective": objective, "label_names": False})
    held_out = validation if validated else None
    train(spec, encoder, training, output=Path("unwritten"), validation=held_out, reporter=FirstStep())
    seen.remove()
    assert bool(passes) is looks


def test_contrast_trains_other_weights_than_cross_entropy_and_tells_its_own_loss(
    encoder, training, spec_for, tmp_path, adapter_bytes
):
    found = {}
    for objective in ("contrast", "cross_entropy"):
        spec = spec_for(encoder, task={"objective": objective})
        train(spec, encoder, training, output=tmp_path / objective, reporter=SilentReporter())
        found[objective] = adapter_bytes(tmp_path / objective)
        rows = [json.loads(line) for line in (tmp_path / objective / "metrics.jsonl").read_text().splitlines()]
        assert all(0.0 <= row["train_accuracy"] <= 1.0 for row in rows if row["type"] == "step")
    assert found["contrast"] != found["cross_entropy"]


@pytest.mark.parametrize("names", [True, False])
def test_where_no_label_has_two_examples_they_are_compared_with_names_or_the_objective_is_cross_entropy(
    names, encoder, file_of, spec_for, tmp_path, adapter_bytes
):
    alone = file_of([{"text": "sunny", "label": "good"}, {"text": "rainy", "label": "bad"}])
    for objective in ("contrast", "cross_entropy"):
        spec = spec_for(encoder, task={"objective": objective, "label_names": names})
        train(spec, encoder, alone, output=tmp_path / objective, reporter=SilentReporter())
    assert (adapter_bytes(tmp_path / "contrast") != adapter_bytes(tmp_path / "cross_entropy")) is names


def test_contrast_is_refused_for_a_causal_language_model(causal, training, spec_for, tmp_path):
    with pytest.raises(SpecError, match="contrast"):
        train(
            spec_for(causal, task={"objective": "contrast"}),
            causal, training, output=tmp_path / "out", reporter=SilentReporter(),
        )  # fmt: skip
