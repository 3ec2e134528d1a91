"""Every method of the benchmark trains what it says, answers every text, and gives the base model back as it was."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sgg_core.adapter_file import canonical
from sgg_core.bench import accuracy, peers, trained
from sgg_core.bench.accuracy import METHODS, PAIR_METHODS, Bench, measure, method_of, run
from sgg_core.bench.assignment import Assignment, NotApplicableError, examples
from sgg_core.bench.cells import Cell, Row, read_rows, write_rows
from sgg_core.errors import SpecError
from sgg_core.lora_layers import lora
from sgg_core.plan import make_plan
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import save_tiny_base, tiny_base
from sgg_core.trainer import train

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
    run(bench, cells[:2], csv, 1, lambda *what: told.append(what), pytest.fail)
    kept = csv.read_bytes()
    csv.write_bytes(kept + b"weather,,tiny-enc")  # killed in the middle of a line
    run(bench, cells, csv, 2, lambda *what: told.append(what), pytest.fail)
    assert csv.read_bytes().startswith(kept)
    assert {row.cell for row in read_rows(csv)} == set(cells) and len(read_rows(csv)) == 4
    assert [(done, total) for _, done, total, _ in told] == [(1, 2), (2, 2), (1, 2), (2, 2)]
    assert told[-1][3] == 0.0


def test_a_cell_measured_here_is_the_one_measured_in_a_process(bench, tmp_path):
    cell = Cell("weather", "", "tiny-encoder", "linear_probe", 2, 0)
    run(bench, [cell], tmp_path / "r.csv", 1, lambda *what: None, pytest.fail)
    (row,) = read_rows(tmp_path / "r.csv")
    assert row.model_dump(exclude={"train_seconds"}) == measure(bench, cell).model_dump(exclude={"train_seconds"})
    assert row.majority == 0.5 and 0 <= row.accuracy <= 1


def test_cells_without_what_is_asked_for_are_measured_again_and_said(bench, tmp_path):
    csv, told, said = tmp_path / "results.csv", [], []
    names = ("zero_shot", "linear_probe", "lora", "sgg")
    cells = [Cell("weather", "", "tiny-encoder", name, 2, 0) for name in names]
    held = [Row(**asdict(cell), test_items=8, accuracy=0.125) for cell in cells]
    held[0].test_items = 4
    held[3].accuracy, held[3].note = None, "no memory"
    write_rows(csv, held)

    def go(**asked):
        run(replace(bench, **asked), cells, csv, 1, lambda row, *_: told.append(row.method), said.append)
        return {row.method: row for row in read_rows(csv)}

    found = go(alignment=True)
    assert sorted(told) == ["lora", "sgg", "zero_shot"]  # frozen features have no gradients to look at
    why = "1 with fewer test items, 1 without alignment, 1 that could not be run"
    assert said == [f"Measured again, of the cells in {csv}: {why}."]
    assert len(csv.read_text().splitlines()) == 5 and found["linear_probe"] == held[1]
    assert found["zero_shot"].test_items == 8 and found["sgg"].accuracy is not None
    assert all(found[name].directional_alignment is not None for name in ("lora", "sgg"))
    told.clear(), said.clear()
    assert go() == go(alignment=True) == go(test_items=100) == found  # there are no more than 8 items
    assert go(test_items=4) == found
    assert not told and not said


def test_a_cell_that_fails_again_keeps_what_was_measured_before(bench, tmp_path):
    csv, said = tmp_path / "results.csv", []
    cell = Cell("weather", "", "tiny-encoder", "bitfit", 2, 0)
    bench = replace(bench, entries={"tiny-causal": save_tiny_base(tmp_path / "causal", "causal")})
    cell = replace(cell, base_model="tiny-causal")  # whose layers have no biases
    earlier = Row(**asdict(cell), test_items=4, accuracy=0.5)
    write_rows(csv, [earlier])
    run(bench, [cell], csv, 1, lambda *what: None, said.append)
    assert read_rows(csv) == [earlier] and len(csv.read_text().splitlines()) == 2
    assert "1 with fewer test items" in said[0]


def test_a_source_of_which_the_target_holds_all_is_a_note(bench, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    rows = [{**row, "text": row["text"].upper() + " ."} for row in ROWS]
    (other / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench = replace(bench, folders=bench.folders | {"other": other})
    found = measure(bench, Cell("weather", "other", "tiny-encoder", "mixing", 2, 0))
    assert (found.accuracy, found.note) == (None, "weather holds all texts of other")


def contrast_of(features, labels):
    """Mean over the examples that have company of -log p of it, each example's softmax over the others, as a loop."""
    losses = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        told = (features[others] @ features[i] / 0.2).log_softmax(0)
        company = [place for place, j in enumerate(others) if labels[j] == label]
        losses += [-told[company].mean()] if company else []
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("kind", "name"), [("causal", "lora"), ("encoder", "lora"), ("encoder", "lora_contrast_nameless")]
)
def test_directional_alignment_is_that_of_its_definition(kind, name, tmp_path):
    """The mean, over the four weights that a run has looked at, of the cosine of two gradients taken once more."""
    base = tiny_base(kind)
    assignment = given(base, Cell("weather", "", base.entry.name, name, 4, 0))
    figures = method_of(assignment.cell)[0](assignment).figures
    spec = trained.looked_at(assignment.spec(**trained.SETTINGS[name]), 4)
    train(
        spec, base, assignment.training, output=tmp_path / "adapter", checkpoints=tmp_path / "c",
        reporter=SilentReporter(),
    )  # fmt: skip
    places = sorted((tmp_path / "c").iterdir())
    assert len(places) == 4
    with lora(base, spec.lora, spec.seed) as adapted:
        task = trained.make_task(spec, base, assignment.training)
        factors = {canonical(key): p for key, p in adapted.named_parameters() if p.requires_grad}
        head = {} if task.head() is None else {f"head.{key}": p for key, p in task.head().named_parameters()}
        support, held_out = (task.encode(part.examples) for part in (assignment.training, assignment.held_out))

        def answers(items):
            return sum(task.loss([item]).total for item in items) / len(items)

        def contrast(items):
            return contrast_of(torch.cat([task.features([item]) for item in items]), [item.label for item in items])

        def between(loss, parameters):
            slopes = [torch.autograd.grad(loss(items), list(parameters)) for items in (support, held_out)]
            one, other = (torch.cat([part.flatten() for part in slope]).double() for slope in slopes)
            return float(one @ other / one.norm() / other.norm())

        own, of_answers = [], []
        for place in places:
            weights = load_file(place / "adapter_model.safetensors")
            with torch.no_grad():
                for key, parameter in (factors | head).items():
                    parameter.copy_(weights[key])
            of_answers.append(between(answers, (factors | head).values()))
            own.append(of_answers[-1] if name == "lora" else between(contrast, factors.values()))
    assert figures["directional_alignment"] == pytest.approx(sum(own) / 4, abs=1e-3)
    assert figures["answer_alignment"] == pytest.approx(sum(of_answers) / 4, abs=1e-3)


def test_alignment_is_looked_at_four_times_with_the_last_one_at_the_end():
    for steps in (4, 14, 30, 33, 450):
        spec = TrainingSpec(base_model="m", optimization={"max_steps": steps, "epochs": 1000})
        plan = make_plan(trained.looked_at(spec, steps), "encoder", 16, 2)
        looks = [step for step in range(1, plan.total_steps + 1) if plan.saves_at(step)]
        assert len(looks) == 4 and looks[-1] == plan.total_steps == steps


def test_setfit_without_an_encoder_or_an_interpreter_that_has_it_is_a_note_and_no_crash(monkeypatch):
    monkeypatch.setenv("SGG_SETFIT_PYTHON", sys.executable)
    for kind, reason in (("causal", "needs a sentence encoder"), ("encoder", "setfit failed: ")):
        base = replace(tiny_base(kind), directory=Path("/nonexistent"))
        with pytest.raises(NotApplicableError, match=reason):
            METHODS["setfit"](given(base, Cell("weather", "", base.entry.name, "setfit", 4, 0)))
