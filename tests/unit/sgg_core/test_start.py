"""A run that starts from another one's weights begins where that one ended, or says why it cannot."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sgg_core import trainer
from sgg_core.adapter_file import ADAPTER, CONFIG, HEAD, MANIFEST, facts_of, pack
from sgg_core.errors import CheckpointError, StartingPointError
from sgg_core.reporting import SilentReporter

train = partial(trainer.train, with_documents=False)  # nobody reads them here

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.1}


class StoppingReporter(SilentReporter):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def control(self):
        self.steps -= 1
        return "continue" if self.steps >= 0 else "pause"


@pytest.fixture
def first(base, training, validation, spec_for, tmp_path):
    """A finished run's adapter directory; its checkpoints are in `checkpoints` beside it."""
    spec = spec_for(base, lora=LORA)
    output, checkpoints = tmp_path / "first", tmp_path / "checkpoints"
    train(
        spec, base, training, output=output, reporter=SilentReporter(), validation=validation, checkpoints=checkpoints
    )
    return output


@pytest.fixture
def begin(base, training, validation, spec_for, tmp_path):
    """Train from a starting point; gives the output directory and what was told."""
    counter = iter(range(100))

    def run(start, training=training, validation=validation, **groups):
        reporter = SilentReporter()
        output = tmp_path / f"run-{next(counter)}"
        spec = spec_for(base, seed=9, **({"lora": LORA} | groups))
        train(spec, base, training, output=output, reporter=reporter, validation=validation, start_from=start)
        return output, reporter

    return run


def evaluation_of(directory, name):
    return json.loads((directory / "report.json").read_text())[name]


def test_the_second_run_begins_where_the_first_ended(first, begin, adapter_bytes):
    output, _ = begin(first)
    ended, begun = evaluation_of(first, "evaluation"), evaluation_of(output, "baseline")
    assert begun["loss"] == pytest.approx(ended["loss"], abs=1e-6)
    assert begun["loss"] != pytest.approx(evaluation_of(first, "baseline")["loss"], abs=1e-5)
    assert adapter_bytes(output) != adapter_bytes(first)
    started = json.loads((output / MANIFEST).read_text())["started_from"]
    assert started["name"] == "first" and len(started["sha256"]) == 64


def test_the_last_checkpoint_the_adapter_and_the_packed_file_are_one_starting_point(
    first, begin, tmp_path, adapter_bytes
):
    pack(first, tmp_path / "packed.safetensors")
    newest = max((first.parent / "checkpoints").glob("step-*"))
    weights = [adapter_bytes(begin(start)[0]) for start in (first, newest, tmp_path / "packed.safetensors")]
    assert weights[0] == weights[1] == weights[2]


def test_an_adapter_that_peft_alone_saved_is_enough(first, begin, tmp_path, base, adapter_bytes):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in (ADAPTER, CONFIG):
        shutil.copy(first / name, plain / name)
    assert facts_of(plain).lora()["alpha"] == LORA["alpha"]
    output, reporter = begin(plain)
    notes = [message.message for message in reporter.messages if message.type == "notice"]
    if base.entry.kind == "encoder":
        assert any("no head in plain" in note for note in notes)
    else:
        assert not any("head" in note for note in notes)
        assert adapter_bytes(output) == adapter_bytes(begin(first)[0])


def test_other_labels_are_learned_and_an_encoder_gets_a_new_head_for_them(first, begin, base, file_of):
    rows = [{"text": f"word {n}", "label": label} for n in range(4) for label in ("a", "b", "c")]
    output, reporter = begin(first, file_of(rows), None)
    notes = [message.message for message in reporter.messages if message.type == "notice"]
    assert any("labels differ from those of first" in note for note in notes) == (base.entry.kind == "encoder")
    assert json.loads((output / MANIFEST).read_text())["labels"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"rank": 4, "alpha": 8.0}, r"lora\.rank=2.*would have 4.*set it to 2"),
        ({"rank": 2, "alpha": 16.0}, r"lora\.alpha=8.*would have 16"),
        ({"rank": 2, "alpha": 8.0, "targets": ["q_proj"]}, r"adapts .*lora\.targets"),
    ],
)
def test_a_start_that_does_not_fit_says_what_to_set(causal, first, begin, base, lora, told):
    if base is not causal and "targets" in lora:
        lora = lora | {"targets": ["query"]}
    with pytest.raises(StartingPointError, match=told):
        begin(first, lora=lora)


def test_the_adapter_of_another_base_model_is_refused(first, spec_for, base, training, tmp_path):
    from sgg_core.tiny import tiny_base

    other = tiny_base(base.entry.kind, seed=5)
    with pytest.raises(StartingPointError, match="a base model other than"):
        train(
            spec_for(other, lora=LORA),
            other,
            training,
            output=tmp_path / "x",
            reporter=SilentReporter(),
            start_from=first,
        )


def test_a_run_with_a_starting_point_resumes_bit_for_bit_and_from_its_own_start_alone(
    first, begin, base, training, validation, spec_for, tmp_path, adapter_bytes
):
    straight, _ = begin(first)
    spec, checkpoints = spec_for(base, seed=9, lora=LORA), tmp_path / "own"
    common = {"validation": validation, "checkpoints": checkpoints, "output": tmp_path / "resumed"}
    stopped = train(spec, base, training, reporter=StoppingReporter(3), start_from=first, **common)
    resume = Path(stopped.directory)
    with pytest.raises(CheckpointError, match="another run"):
        train(spec, base, training, reporter=SilentReporter(), resume_from=resume, **common)
    train(spec, base, training, reporter=SilentReporter(), resume_from=resume, start_from=first, **common)
    assert adapter_bytes(tmp_path / "resumed") == adapter_bytes(straight)


def test_weights_that_are_not_finite_are_refused(first, begin, tmp_path):
    tensors = load_file(first / ADAPTER)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(StartingPointError, match="NaN"):
        begin(tmp_path / "nan.safetensors")


def test_a_head_of_another_shape_is_refused(encoder, first, begin, base):
    if base is not encoder:
        pytest.skip("only encoders have heads")
    head = load_file(first / HEAD)
    save_file({name: tensor[:1] for name, tensor in head.items()}, first / HEAD)
    with pytest.raises(StartingPointError, match="head does not fit"):
        begin(first)
