"""What a run is said to cost before it: with several seeds and a rival, what it costs without them and theirs."""

import json

import pytest

from sgg_core import in_context, plain_rival, rivals, run
from sgg_core.estimate import RUN_SECONDS, memory_need, reference_seconds
from sgg_core.evaluation import evaluate
from sgg_core.reporting import SilentReporter
from sgg_core.retention import RetentionSet
from sgg_core.survey import survey
from sgg_core.trainer import train

RIVAL = {"baselines": ["plain_lora"]}
ALONE = {"baselines": []}


class UntilStarted(SilentReporter):
    """Ends the run as soon as it has told what it costs."""

    def control(self):
        return "cancel" if any(message.type == "started" for message in self.messages) else "continue"


@pytest.fixture
def seconds(base, training, validation, spec_for, tmp_path):
    """What a run of such a spec announces, less what is paid once a job."""

    def announced(held_out=validation, retention=None, **groups):
        reporter = UntilStarted()
        train(
            spec_for(base, **groups), base, training, validation=held_out, output=tmp_path / "adapter",
            reporter=reporter, retention=retention,
        )  # fmt: skip
        started = next(message for message in reporter.messages if message.type == "started")
        reference = started.reference
        return reference.steps + reference.passes + reference.fixed - RUN_SECONDS[base.entry.kind]

    return announced


@pytest.fixture
def counted(training, validation):
    """The work of a run with such a spec, as a dry run counts it."""

    def of(base, spec, device="cpu", **more):
        files = {"training": training, "validation": validation, **more}
        rows = {
            role: [{"text": each.text, "label": each.label} for each in file.examples] for role, file in files.items()
        }
        content = {role: "\n".join(map(json.dumps, each)).encode() for role, each in rows.items()}
        return survey(spec, base, {role: f"{role}.jsonl" for role in content}, content.__getitem__, device).workload

    return of


@pytest.fixture
def retention(file_of):
    return file_of([{"text": f"{word} {n}", "label": word} for n in range(3) for word in ("red", "blue")])


def test_three_seeds_take_three_times_the_training_of_one(seconds):
    one = seconds(evaluation=RIVAL)
    assert seconds(evaluation=RIVAL, optimization={"seeds": 3}) == pytest.approx(3 * one)


def test_a_rival_takes_the_steps_of_plain_lora(seconds):
    alone = seconds(evaluation=ALONE)
    rival = seconds(evaluation=RIVAL) - alone
    plain = seconds(evaluation=ALONE, method="supervised")
    assert 0 < rival < plain  # which has checkpoints and evaluations of its own besides its steps


def test_a_rivals_batches_are_those_of_plain_lora(base, training, spec_for, counted):
    auto = {"max_steps": None, "epochs": "auto", "batch_size": "auto"}
    guided = counted(base, spec_for(base, evaluation=RIVAL, optimization=auto))
    plain = counted(base, spec_for(base, evaluation=RIVAL, optimization=auto, method="supervised"))
    assert (guided.rival_steps, guided.rival_positions) == (plain.steps, plain.positions)
    if base.entry.kind == "encoder":  # which compares, in fewer steps, and counts the names of labels
        assert guided.rival_steps > guided.steps and guided.rival_positions < guided.positions
    assert (plain.rival_steps, plain.rival_positions) == (0, 0.0)


@pytest.fixture
def really(monkeypatch):
    """What runs do: positions of each evaluation, checkpoints, plain rivals, questions in context and retention's."""
    done = {"evaluated": [], "saved": 0, "rivals": 0, "in_context": 0, "kept": 0}

    def count(what, module, name):
        made = getattr(module, name)

        def counting(*arguments, **more):
            done[what] += 1
            return made(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    def evaluating(task, items):
        done["evaluated"].append(sum(task.positions(items, scoring=True)))
        return evaluate(task, items)

    for module in (run, plain_rival):
        monkeypatch.setattr(module, "evaluate", evaluating)
    count("saved", run, "save_checkpoint")
    count("rivals", rivals, "train_plainly")
    count("in_context", in_context, "evaluate_in_context")
    count("kept", RetentionSet, "measure")
    return done


@pytest.mark.parametrize("optimization", [{"folds": 3, "learning_rate": [0.01, 0.02], "seeds": 2}, {"seeds": 2}])
def test_what_a_dry_run_counts_is_what_the_runs_do(
    base, training, validation, retention, spec_for, tmp_path, counted, really, optimization
):
    """Folds have evaluations of their own, and neither rivals nor a retention file."""
    spec = spec_for(
        base, evaluation={"baselines": ["in_context", "plain_lora"]}, optimization=optimization,
        checkpoint={"every_steps": 3}, task={"objective": "cross_entropy"},
    )  # fmt: skip
    load, reporter = counted(base, spec, retention=retention), SilentReporter()
    train(
        spec, base, training, validation=validation, retention=retention, output=tmp_path / "adapter",
        reporter=reporter, checkpoints=tmp_path / "checkpoints", with_documents=False,
    )  # fmt: skip
    begun = [message for message in reporter.messages if message.type == "started"]
    assert {message.reference for message in begun} == {reference_seconds(load)}
    runs = [load, *load.tried]
    assert sum(really["evaluated"]) == sum(
        each.replicas * each.evaluations * each.evaluation_positions for each in runs
    )
    assert really["saved"] == sum(each.replicas * each.checkpoints for each in runs)
    steps = [message for message in reporter.messages if message.type == "step"]
    assert len(steps) == sum(each.replicas * each.steps for each in runs) == begun[0].total_steps
    assert really["rivals"] == load.replicas == 2 and really["kept"] == 2 * load.replicas
    assert really["in_context"] == (load.replicas if load.in_context_positions else 0)
    assert not any(each.rival_steps or each.in_context_positions or each.retention_positions for each in load.tried)
    assert len(load.tried) == optimization.get("folds", 0)


def test_a_dry_run_counts_for_the_device_that_trains(causal, spec_for, counted):
    spec = spec_for(causal, evaluation={"baselines": "auto"})
    assert counted(causal, spec).in_context_positions == 0
    assert counted(causal, spec, device="cuda").in_context_positions > 0


def test_long_sources_let_fewer_replicas_train_at_once(causal, training, file_of, spec_for, tmp_path):
    """As many as the need says that is told when they begin."""
    spec = spec_for(causal, optimization={"seeds": 4}, guidance={"alignment": 0.5, "source_weight": "gated"})

    def begun(words, memory=None):
        source = file_of([{"text": f"{label} " * words, "label": label} for label in ("yes", "no")])
        reporter = SilentReporter()
        train(
            spec, causal, training, sources=[source], output=tmp_path / "adapter", reporter=reporter,
            memory_bytes=memory, with_documents=False,
        )  # fmt: skip
        return next(message.memory for message in reporter.messages if message.type == "started")

    short, long = begun(2), begun(150)
    assert long.passes > 2 * short.passes and short.replicas == long.replicas == 4
    assert begun(2, short.alone).replicas == 4
    assert begun(150, long.alone).replicas == 4 > begun(150, long.alone - 1).replicas
    assert begun(150, short.alone).replicas < 4


def test_what_trains_no_rival_pays_for_none(seconds):
    assert seconds(evaluation=RIVAL, method="supervised") == seconds(evaluation=ALONE, method="supervised")
    assert seconds(None, evaluation=RIVAL) == seconds(None, evaluation=ALONE)


def test_examples_in_a_prompt_and_a_retention_file_are_paid_for(seconds, base, retention):
    alone = seconds(evaluation=ALONE)
    asked = seconds(evaluation={"baselines": ["in_context"]})
    assert asked > alone if base.entry.kind == "causal" else asked == alone  # an encoder reads no prompt
    assert seconds(evaluation=ALONE, retention=retention) > alone


def test_an_encoder_that_learns_by_contrast_pays_for_its_head_once_for_each_step_that_needs_it(
    encoder, spec_for, counted
):
    def examined(looks, saves, **groups):
        every = {"evaluation": {"every_steps": looks}, "checkpoint": {"every_steps": saves}}
        return counted(encoder, spec_for(encoder, **every, **groups)).examined_positions

    assert examined(2, 6) > examined(6, 6)
    assert examined(2, 6) == examined(6, 2) == examined(2, 2) < examined(2, 3)
    assert examined(2, 6, method="supervised") == examined(6, 6, method="supervised")


@pytest.mark.parametrize("role", ["training", "source"])
def test_examples_that_are_compared_with_each_other_are_all_held_at_once(encoder, spec_for, role):
    content = {
        name: "\n".join(
            json.dumps({"text": f"{word} " * (100 if name == role else 2) + str(n), "label": word})
            for n in range(8)
            for word in ("good", "bad")
        ).encode()
        for name in ("training", "source")
    }

    def held(objective):
        spec = spec_for(encoder, optimization={"batch_size": 16}, task={"objective": objective})
        return survey(spec, encoder, {name: f"{name}.jsonl" for name in content}, content.__getitem__, "cpu").workload

    compared, apart = held("contrast"), held("cross_entropy")
    assert compared.largest_pass >= 16 * 100 > 512 >= apart.largest_pass >= 100
    assert memory_need(compared).passes > 3 * memory_need(apart).passes


@pytest.mark.parametrize(("steps", "gradients"), [(3, 1.0), (4, 1.25), (8, 1.25)])
def test_only_the_steps_that_are_corrected_take_a_second_gradient(causal, spec_for, counted, steps, gradients):
    load = counted(causal, spec_for(causal, optimization={"max_steps": steps}))
    assert load.gradients == gradients
