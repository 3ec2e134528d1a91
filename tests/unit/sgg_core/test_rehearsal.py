"""Whether a source helps is measured on examples that nothing was fitted to, and the run begins with what helped."""

import json
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sgg_core import trainer
from sgg_core.lora_layers import lora
from sgg_core.objective import Objective
from sgg_core.plan import make_plan
from sgg_core.rehearsal import (
    Rehearsals,
    _best_scaled_loss,
    _Stage,
    can_be_halved,
    can_judge,
    cross_validated_scores,
    halves,
    held_out_loss,
)
from sgg_core.reporting import SilentReporter
from sgg_core.survey import survey
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import encoded, make_task, probe_head
from sgg_core.tasks.label_names import with_names

train = partial(trainer.train, with_documents=False)  # nobody reads them here

OPTIMIZATION = {"max_steps": 20, "epochs": 20, "batch_size": 4, "learning_rate": 0.01}


@pytest.fixture
def contrary(file_of, training):
    """What the training file says, with the labels swapped."""
    swap = {"good": "bad", "bad": "good"}
    return file_of([{"text": e.text, "label": swap[e.label]} for e in training.classification], "contrary.jsonl")


@pytest.fixture
def agreeing(file_of, training):
    return file_of([{"text": e.text, "label": e.label} for e in training.classification], "agreeing.jsonl")


def turned(items):
    """The same examples, the labels turned by one."""
    labels = 1 + max(item.label for item in items)
    return [replace(item, label=(item.label + 1) % labels) for item in items]


def data_of(spec, base, adapted, examples, number=None):
    task = make_task(spec, base, examples)
    items = encoded(task, examples)
    probe_head(task, items)
    parameters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    head = task.head()
    return TaskData(task, items, parameters | (dict(head.named_parameters()) if head else {}), number)


def objective_of(spec, base, adapted, examples):
    data = data_of(spec, base, adapted, examples, 0)
    adapter = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    return Objective(data, adapter, make_plan(spec, base.entry.kind, *data.sizes), 0)


def test_a_source_that_agrees_helps_and_one_that_contradicts_does_not(causal, training, agreeing, contrary, spec_for):
    spec = spec_for(causal, optimization=OPTIMIZATION)
    with lora(causal, spec.lora, 0) as adapted:
        target = data_of(spec, causal, adapted, training)
        rehearsals = Rehearsals(target, 0.0, lambda: True)
        verdicts = [
            rehearsals.judge(objective_of(spec, causal, adapted, examples)) for examples in (contrary, agreeing)
        ]
        assert held_out_loss(target.task, target.items) == verdicts[1].after  # what it learned is kept
    assert verdicts[0].before == verdicts[1].before
    assert [verdict.helps for verdict in verdicts] == [False, True]
    assert verdicts[1].after < verdicts[1].before - 0.1


def test_what_the_targets_own_examples_teach_better_is_no_help(causal, training, agreeing, spec_for):
    """The source lowers the loss of the target's examples, and then stands in the way of training on them."""
    spec = spec_for(causal, optimization=OPTIMIZATION)
    asked = []
    with lora(causal, spec.lora, 0) as adapted:
        target, source = data_of(spec, causal, adapted, training), objective_of(spec, causal, adapted, agreeing)
        start = [parameter.detach().clone() for parameter in target.parameters.values()]

        spoilt = True

        def on_a_half(items):
            asked.append(items)
            data = TaskData(target.task, turned(items) if spoilt and len(asked) > 2 else items, target.parameters)
            return Objective(data, target.parameters, make_plan(spec, causal.entry.kind, *data.sizes), 0)

        steps = count()
        rehearsals = Rehearsals(target, 0.0, lambda: next(steps) < most, (), on_a_half)
        most = 10_000
        refused = rehearsals.judge(source)
        assert refused.after < refused.before and refused.learned[0] < refused.learned[1] and not refused.helps
        assert all(map(torch.equal, target.parameters.values(), start))
        assert asked == [*halves(target.items)] * 2

        asked.clear()
        spoilt = False
        used = rehearsals.judge(source)
        assert used.before == refused.before and used.learned[1] < used.learned[0] == refused.learned[0] and used.helps
        assert asked == [*halves(target.items)]  # what the untaught model learns is known by now
        assert held_out_loss(target.task, target.items) == used.after  # not what the halves were trained to

        asked.clear()
        most = next(steps) + source.plan.total_steps + 1
        assert rehearsals.judge(source) is None
        assert len(asked) == 1 and held_out_loss(target.task, target.items) == used.after
        most = 10_000
        again = rehearsals.judge(source)
        assert (again.before, again.learned[0]) == (used.after, used.learned[1])


def test_halves_have_every_labels_share(causal, training, spec_for):
    items = encoded(make_task(spec_for(causal), causal, training), training)
    one, other = halves(items)
    assert sorted(map(id, one + other)) == sorted(map(id, items))
    for label in {item.label for item in items}:
        shares = [sum(item.label == label for item in half) for half in (one, other)]
        assert abs(shares[0] - shares[1]) <= 1
    assert can_be_halved(items) and not can_be_halved(items[:1])
    alone = replace(items[0], label=2)
    assert can_be_halved([*items, alone]) and not can_be_halved([items[0], alone])


def test_a_rehearsal_that_does_not_help_leaves_weights_and_random_state_as_they_were(
    causal, training, contrary, spec_for
):
    spec = spec_for(causal, optimization=OPTIMIZATION)
    with lora(causal, spec.lora, 0) as adapted:
        target, source = data_of(spec, causal, adapted, training), objective_of(spec, causal, adapted, contrary)
        everything = [*target.parameters.values(), *source.parameters.values()]
        before, state = [p.detach().clone() for p in everything], torch.get_rng_state()
        assert not Rehearsals(target, 0.0, lambda: True).judge(source).helps
        left = iter([True] * 3)
        assert Rehearsals(target, 0.0, lambda: next(left, False)).judge(source) is None
        assert all(torch.equal(p, start) for p, start in zip(everything, before, strict=True))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in adapted.parameters())


def test_an_encoders_examples_are_judged_by_probes_that_have_not_seen_them(encoder, file_of, spec_for):
    """Labels without any relation to the texts: whoever has seen them knows them, whoever has not cannot."""
    rows = [{"text": f"{chr(97 + n % 26)} {n * 7919 % 101}", "label": "ab"[n % 3 == 0]} for n in range(24)]
    spec = spec_for(encoder)
    task = make_task(spec, encoder, file_of(rows))
    items = encoded(task, file_of(rows))
    probe_head(task, items)
    assert held_out_loss(task, items) > 0.6
    assert can_judge(task, items)
    by_label = [[item for item in items if item.label == label] for label in (0, 1)]
    assert not can_judge(task, by_label[0] + by_label[1][:1])


def test_confidence_alone_is_no_gain():
    torch.manual_seed(0)
    scores, gold = torch.randn(30, 3), torch.randint(0, 3, (30,))
    scores[range(30), gold] += 0.8
    found = [_best_scaled_loss(scores * factor, gold) for factor in (0.2, 1.0, 5.0)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)
    grid = [float(functional.cross_entropy(scores.double() * t, gold)) for t in torch.logspace(-2, 2, 4001)]
    assert found[1] == pytest.approx(min(grid), rel=1e-6)


@pytest.mark.parametrize(("name", "used"), [("agreeing", True), ("contrary", False)])
def test_a_run_uses_what_helped_and_tells(name, used, causal, training, spec_for, tmp_path, told, request):
    guidance = {"source_weight": "cross_fitted"}
    slow = OPTIMIZATION | {"learning_rate": 0.005}  # else this tiny model forgets by half of the examples what it knew
    spec = spec_for(causal, optimization=slow, guidance=guidance)
    reporter = SilentReporter()
    sources = [request.getfixturevalue(name)]
    train(spec, causal, training, sources=sources, output=tmp_path / "out", reporter=reporter)
    (notice,) = [notice for notice in told(reporter, "notice") if "Source" in notice["message"]]
    assert notice["level"] == ("info" if used else "warn")
    assert (
        "after training on half of them" in notice["message"]
    ) is used  # one that teaches nothing is not asked twice
    assert f"Source {name}.jsonl {'is used' if used else 'does not help and is left out'}" in notice["message"]
    steps = told(reporter, "step")
    assert all((step["source_weight"] is not None) is used for step in steps)
    assert all(0 < step["source_weight"] <= 1 for step in steps if used)
    without = SilentReporter()
    train(spec, causal, training, output=tmp_path / "alone", reporter=without)
    assert (steps[0]["train_loss"] < told(without, "step")[0]["train_loss"] - 0.1) is used


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_forecasts_count_what_a_rehearsal_takes(kind, training, agreeing, spec_for, tmp_path, monkeypatch, request):
    base = request.getfixturevalue(kind)
    groups = {"guidance": {"source_weight": "cross_fitted"}, "task": {"label_names": False}}
    spec = spec_for(base, optimization=OPTIMIZATION, **groups)
    taken = []
    train_as_ever = _Stage.train

    def counting(stage, objective):
        steps = range(1, objective.plan.total_steps + 1)
        batches = [with_names(objective.examples(step), objective.names) for step in steps]
        taken.append(sum(sum(objective.target.task.positions(batch)) for batch in batches))
        return train_as_ever(stage, objective)

    monkeypatch.setattr(_Stage, "train", counting)
    train(spec, base, training, sources=[agreeing], output=tmp_path / "out", reporter=SilentReporter())
    assert len(taken) == {"causal": 1 + 4, "encoder": 1}[kind]
    files = {"training": training, "source0": agreeing}
    content = {
        role: "\n".join(json.dumps({"text": e.text, "label": e.label}) for e in file.examples).encode()
        for role, file in files.items()
    }
    load = survey(spec, base, {role: f"{role}.jsonl" for role in files}, content.__getitem__, "cpu").workload
    assert load.rehearsal_positions == pytest.approx(sum(taken), rel=0.2)


def test_a_source_that_does_not_help_changes_nothing(causal, training, contrary, spec_for, tmp_path, adapter_bytes):
    spec = spec_for(causal, optimization=OPTIMIZATION, guidance={"source_weight": "cross_fitted"})
    for name, sources in (("with", [contrary]), ("without", [])):
        train(spec, causal, training, sources=sources, output=tmp_path / name, reporter=SilentReporter())
    assert adapter_bytes(tmp_path / "with") == adapter_bytes(tmp_path / "without")


def test_a_run_can_be_stopped_during_its_rehearsal(causal, training, source, spec_for, tmp_path):
    class Stopping(SilentReporter):
        asked = 0

        def control(self):
            self.asked += 1
            return "drain" if self.asked > 3 else "continue"

    spec = spec_for(causal, guidance={"source_weight": "cross_fitted"})
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    stopped = train(spec, causal, training, sources=[source], reporter=Stopping(), **places)
    assert (stopped.reason, stopped.step, stopped.directory) == ("drain", 0, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_sources_are_not_judged_again_by_a_run_that_goes_on(
    kind, agreeing, contrary, training, spec_for, tmp_path, adapter_bytes, told, request
):
    base = request.getfixturevalue(kind)
    spec = spec_for(base, optimization=OPTIMIZATION, guidance={"source_weight": "cross_fitted"})
    data = {"sources": [agreeing, contrary], "checkpoints": tmp_path / "c"}
    first, second = SilentReporter(), SilentReporter()
    train(spec, base, training, **data, output=tmp_path / "whole", reporter=first)
    begin = tmp_path / "c" / "step-00000000"
    train(spec, base, training, **data, output=tmp_path / "resumed", reporter=second, resume_from=begin)
    judged = [
        [n["message"] for n in told(reporter, "notice") if "rehearsal" in n["message"]] for reporter in (first, second)
    ]
    assert (len(judged[0]), judged[1]) == (2, [])
    assert told(second, "started")[0]["first_step"] == 1
    assert told(first, "step") == told(second, "step")
    assert adapter_bytes(tmp_path / "whole") == adapter_bytes(tmp_path / "resumed")


def test_no_two_checkpoints_have_the_same_name(causal, agreeing, training, validation, spec_for, tmp_path):
    """The second training's beginning, after its rehearsal, is not told as the end of the first one's steps again."""
    reporter = SilentReporter()
    spec = spec_for(
        causal,
        optimization={"seeds": 2, "max_steps": 4},
        guidance={"source_weight": "cross_fitted"},
        evaluation={"baselines": ["plain_lora"]},
    )
    train(
        spec, causal, training, validation=validation, sources=[agreeing], memory_bytes=0,
        output=tmp_path / "a", checkpoints=tmp_path / "c", reporter=reporter,
    )  # fmt: skip
    names = [Path(each.directory).name for each in reporter.messages if each.type == "checkpoint"]
    assert {"step-00000004", "step-00000004-compared", "step-00000006"} <= set(names)
    assert len(names) == len(set(names))


def test_what_all_rehearsals_found_is_kept_by_a_run_that_is_stopped_at_the_end_of_the_last(
    causal, training, source, spec_for, tmp_path, told
):
    class Stopping(SilentReporter):
        def control(self):
            return "drain" if any("Source" in notice["message"] for notice in told(self, "notice")) else "continue"

    spec = spec_for(causal, guidance={"source_weight": "cross_fitted"})
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    stopped = train(spec, causal, training, sources=[source], reporter=Stopping(), **places)
    assert (stopped.step, stopped.directory) == (0, str(tmp_path / "c" / "step-00000000"))


def test_sources_that_mostly_point_against_the_target_are_told(
    causal, training, agreeing, contrary, spec_for, tmp_path
):
    said = {}
    for examples in (agreeing, contrary):
        reporter = SilentReporter()
        spec = spec_for(causal, optimization=OPTIMIZATION, guidance={"source_weight": "gated"})
        train(spec, causal, training, sources=[examples], output=tmp_path / examples.filename, reporter=reporter)
        shares = [m.source_cosine < 0 for m in reporter.messages if m.type == "step"]
        notices = [m.message for m in reporter.messages if m.type == "notice" and "pointed against" in m.message]
        assert len(notices) == (sum(shares) > len(shares) / 2)
        said[examples.filename] = bool(notices)
    assert said["contrary.jsonl"]


def test_names_are_in_every_probe_and_judge_where_no_label_has_two_examples(encoder, file_of, spec_for):
    rows = [{"text": f"so {word}", "label": word} for word in ("good", "bad")]
    task = make_task(spec_for(encoder), encoder, file_of(rows))
    items = encoded(task, file_of(rows))
    names = [*items, *items]  # as if the names said what the texts say
    assert can_judge(task, items, names) and not can_judge(task, items)
    assert cross_validated_scores(task, items, names).argmax(1).tolist() == [item.label for item in items]
