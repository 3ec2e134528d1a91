"""Every method of the benchmark trains what it says, answers every text, and gives the base model back as it was."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgg_core.bench import accuracy, peers, trained
from sgg_core.bench.accuracy import METHODS, PAIR_METHODS, Bench, measure, method_of, run
from sgg_core.bench.assignment import Assignment, NotApplicableError, examples
from sgg_core.bench.cells import Cell, read_rows
from sgg_core.errors import SpecError
from sgg_core.tiny import save_tiny_base, tiny_base

WORDS = {"good": ("fine", "sunny", "great", "warm"), "bad": ("poor", "rainy", "awful", "cold")}
ROWS = [{"text": f"{word} {n}", "label": label} for label, words in WORDS.items() for n, word in enumerate(words)]


def given(base, cell, source=True):
    training, held_out, other = examples(ROWS, "t"), examples(ROWS[3:6], "h"), examples(ROWS, "s")
    return Assignment(cell, base, training, ROWS[:3], held_out, other if source else None, None)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Four steps are enough to see that something is trained."""
    monkeypatch.setattr(Assignment, "spec", lambda self, _spec=Assignment.spec, **groups: _short(_spec(self, **groups)))


def _short(spec):
    return spec.model_copy(update={"optimization": spec.optimization.model_copy(update={"max_steps": 4})})


@pytest.mark.parametrize("name", sorted({*METHODS} - {"setfit"}) + sorted(PAIR_METHODS))
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_method_answers_and_leaves_the_base_model_as_it_was(name, kind):
    base = tiny_base(kind)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    source = "" if name in METHODS else "other"
    cell = Cell("weather", source, base.entry.name, name, 4, 0)
    try:
        outcome = method_of(cell)[0](given(base, cell))
    except NotApplicableError:
        assert (name, kind) in {
            ("bitfit", "causal"),  # Llama's layers have no biases
            ("lora_contrast", "causal"),
            ("lora_contrast_nameless", "causal"),
        }
        return
    assert outcome.scores.shape == (3, 2) and torch.isfinite(outcome.scores).all()
    after = base.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    if name in trained.METHODS:
        own, of_answers = (outcome.figures[figure] for figure in ("directional_alignment", "answer_alignment"))
        assert -1 <= own <= 1 and -1 <= of_answers <= 1
        assert kind == "encoder" or own == pytest.approx(of_answers)  # there is but one loss
        if name in ("sgg", "lora_contrast"):
            assert kind == "causal" or own != pytest.approx(of_answers)


def test_pairs_are_trained_and_tested_as_pairs():
    base = tiny_base("encoder")
    cell = Cell("weather", "", base.entry.name, "lora", 4, 0)
    asked = [{"text": "the same", "text_pair": word, "label": "good"} for word in ("fine", "awful and cold")]
    training = examples([{**row, "text_pair": "and more"} for row in ROWS], "t")
    scores = method_of(cell)[0](Assignment(cell, base, training, asked, None, None, None)).scores
    assert not torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("kind", ["causal", "encoder"])
@pytest.mark.parametrize("name", sorted(peers.TUNABLE))
def test_the_weights_that_a_peer_trains_reach_the_loss(name, kind):
    base = tiny_base(kind)
    assignment = given(base, Cell("weather", "", base.entry.name, name, 4, 0))
    try:
        with peers.TUNABLE[name](assignment) as (tuned, parameters):
            task = accuracy.trained.make_task(assignment.spec(), tuned, assignment.training)
            items = task.encode(assignment.training.examples)
            loss = task.loss(items[:2]).total
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    except NotApplicableError:
        assert (name, kind) == ("bitfit", "causal")  # Llama's layers have no biases
        return
    reached = [slope is not None and bool(slope.abs().sum() > 0) for slope in slopes]
    assert any(reached) and sum(reached) >= 0.5 * len(reached)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # peft still says it
@pytest.mark.parametrize("prefix", [False, True])
def test_virtual_tokens_are_what_peft_makes_of_them(prefix):
    """The same hidden states as peft's own model has, for one text without packing."""
    base = tiny_base("causal")
    assignment = given(base, Cell("weather", "", base.entry.name, "prompt", 4, 0))
    with peers.virtual_tokens(prefix, assignment) as (tuned, _):
        ids = torch.arange(20, 29)[None]
        mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
        ours = tuned.model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=torch.arange(9)[None], use_cache=False
        ).last_hidden_state
        theirs = tuned.model.tuned(input_ids=ids, attention_mask=torch.ones(1, 9), output_hidden_states=True)
    assert torch.allclose(ours, theirs.hidden_states[-1][:, -9:], atol=1e-5)


def test_unknown_methods_are_named_before_anything_is_trained():
    for source, method in (("", "sggg"), ("s", "lora"), ("", "lora@fast")):
        with pytest.raises(SpecError, match="Known: "):
            method_of(Cell("t", source, "m", method, 4, 0))
    assert method_of(Cell("t", "", "m", "full@1e-5", 4, 0))[1] == 1e-5


@pytest.fixture
def bench(tmp_path):
    root = tmp_path / "weather"
    root.mkdir()
    for name in ("train", "test"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    entry = save_tiny_base(tmp_path / "base", "encoder")
    return Bench({"weather": root}, {"tiny-encoder": entry}, 8, False, 1)


def test_a_killed_run_goes_on_and_measures_nothing_twice(bench, tmp_path):
    names = ("zero_shot", "linear_probe")
    cells = [Cell("weather", "", "tiny-encoder", name, 2, seed) for seed in (0, 1) for name in names]
    csv, told = tmp_path / "results.csv", []
    run(bench, cells[:2], csv, 1, lambda *what: told.append(what))
    kept = csv.read_bytes()
    csv.write_bytes(kept + b"weather,,tiny-enc")  # killed in the middle of a line
    run(bench, cells, csv, 2, lambda *what: told.append(what))
    assert csv.read_bytes().startswith(kept)
    assert {row.cell for row in read_rows(csv)} == set(cells) and len(read_rows(csv)) == 4
    assert [(done, total) for _, done, total, _ in told] == [(1, 2), (2, 2), (1, 2), (2, 2)]
    assert told[-1][3] == 0.0


def test_a_cell_measured_here_is_the_one_measured_in_a_process(bench, tmp_path):
    cell = Cell("weather", "", "tiny-encoder", "linear_probe", 2, 0)
    run(bench, [cell], tmp_path / "r.csv", 1, lambda *what: None)
    (row,) = read_rows(tmp_path / "r.csv")
    assert row.model_dump(exclude={"train_seconds"}) == measure(bench, cell).model_dump(exclude={"train_seconds"})
    assert row.majority == 0.5 and 0 <= row.accuracy <= 1


def test_setfit_without_an_encoder_or_an_interpreter_that_has_it_is_a_note_and_no_crash(monkeypatch):
    monkeypatch.setenv("SGG_SETFIT_PYTHON", sys.executable)
    for kind, reason in (("causal", "needs a sentence encoder"), ("encoder", "setfit failed: ")):
        base = replace(tiny_base(kind), directory=Path("/nonexistent"))
        with pytest.raises(NotApplicableError, match=reason):
            METHODS["setfit"](given(base, Cell("weather", "", base.entry.name, "setfit", 4, 0)))
