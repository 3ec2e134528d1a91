"""Replicas as one run: each is a run of its own, the best one is kept, and a stop goes on where each was."""

import json
import math
from dataclasses import replace
from functools import partial
from statistics import fmean, stdev

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import trainer
from sgg_core.errors import CheckpointError, OutOfMemoryError, SpecError, TrainingDivergedError
from sgg_core.manifest import verify_directory
from sgg_core.packed.train import PackedJob, train_packed
from sgg_core.reporting import MemoryNeed, SilentReporter, Started
from sgg_core.spread import Outcome, best, spread
from sgg_core.start import read_start

train = partial(trainer.train, with_documents=False)  # nobody reads them here

TWO = {"seeds": 2}
ONE_AFTER_ANOTHER, ALL_AT_ONCE = 0, None  # bytes of memory


class StopAt(SilentReporter):
    """Ends the run before the step after `last`."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def control(self):
        return "drain" if max(steps_told(self), default=0) >= self.last else "continue"


class KilledError(Exception):
    """Stands for a kill: nothing of the run is tidied up by what it says or saves."""


class KilledAt(SilentReporter):
    """Ends the run where it tells of a step, as abruptly as can be told."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def report(self, message):
        super().report(message)
        if message.type == "step" and message.step == self.step:
            raise KilledError


def steps_told(reporter):
    return [message.step for message in reporter.messages if message.type == "step"]


class LacksMemory:
    """A tokenizer for whose answers there is no memory."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *texts, **options):
        raise MemoryError


def outcome(seed, loss, accuracy=0.5, rate=0.001):
    of_it = {"seed": seed, "learning_rate": rate, "steps": 6, "trained_tokens": 9}
    return Outcome(**of_it, train_loss=0.1 * seed, valid_loss=loss, valid_accuracy=accuracy)


def diverged(seed, rate):
    return outcome(seed, None, None, rate).model_copy(update={"train_loss": None, "diverged": True})


def report(directory):
    return json.loads((directory / "report.json").read_text())


def weights(directory):
    return load_file(directory / "adapter_model.safetensors")


def assert_near(found, expected, tolerance):
    """Adapters of two directories."""
    one, other = weights(found), weights(expected)
    assert set(one) == set(other)
    apart = torch.stack([(one[name] - other[name]).norm() for name in other]).norm()
    assert apart <= tolerance * torch.stack([weight.norm() for weight in other.values()]).norm()


def test_the_lowest_validation_loss_is_kept_and_the_first_one_without_such_a_file():
    assert best([outcome(1, 0.5), outcome(2, 0.3), outcome(3, 0.4)]) == 1
    assert best([outcome(1, None, None), outcome(2, None, None)]) == 0


def test_one_that_diverged_is_never_kept():
    assert best([diverged(1, 0.1), outcome(2, None, None)]) == 1
    assert best([diverged(1, 0.1)]) is None


def test_mean_spread_and_interval_are_those_of_students_t():
    values = [0.7, 0.8, 0.9]
    found = spread([outcome(n, 0.5, value) for n, value in enumerate(values)], labelled=True)
    assert (found.mean, found.deviation) == pytest.approx((fmean(values), stdev(values)))
    assert found.high == pytest.approx(min(1.0, 0.8 + 4.303 * 0.1 / math.sqrt(3)), abs=1e-3)
    assert "With 3 seeds the accuracy on the validation examples was 0.800 on average, from 0.700" in found.verdict
    blind = spread([outcome(1, None, None), outcome(2, None, None)], labelled=True)
    texts = spread([outcome(1, 0.5, 0.7), outcome(2, 0.7, 0.8)], labelled=False)  # shares of right tokens
    assert (texts.measure, texts.mean) == ("loss on the validation examples", pytest.approx(0.6))
    assert blind.measure == "last training loss" and "no validation file" in blind.verdict


def test_of_several_learning_rates_the_kept_ones_figures_are_told_and_what_lies_beyond_the_list():
    runs = [outcome(1, 0.5, 0.6, 1e-4), outcome(2, 0.4, 0.7, 1e-4), outcome(1, 0.3, 0.8, 1e-3)]
    found = spread([*runs, outcome(2, 0.6, 0.9, 1e-3), diverged(1, 1e-2), diverged(2, 1e-2)], labelled=True)
    assert (found.kept_seed, found.kept_learning_rate, found.mean) == (1, 1e-3, pytest.approx(0.85))
    assert "0.0001 (0.400), 0.001 (0.300), 0.01 (diverged)" in found.verdict and "may be better" not in found.verdict
    assert "Diverged: seed 1 at 0.01, seed 2 at 0.01." in found.verdict
    alone = spread([outcome(1, 0.5, 0.6, 1e-4), outcome(1, 0.3, 0.8, 1e-3)], labelled=True)
    assert (alone.mean, alone.deviation, alone.low, alone.high) == (0.8, None, None, None)
    assert "0.001 is the highest of the list: a higher one may be better still." in alone.verdict


def test_memory_says_how_many_replicas_train_at_once_and_one_always_does():
    need = MemoryNeed(shared=100, adapter=4, passes=6)
    assert [need.replicas_within(available) for available in (0, 105, 129, 130)] == [1, 1, 2, 3]
    assert need.model_copy(update={"replicas": 3}).alone == 130


@pytest.fixture
def sharp_base(base, in_precision):
    """Both tiny base models in float64, where sharing passes changes next to nothing."""
    with in_precision(base, torch.float64):
        yield base


@pytest.mark.parametrize("memory", [ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def test_each_seed_is_a_run_of_its_own_and_the_best_is_delivered(
    sharp_base, training, validation, source, spec_for, tmp_path, memory
):
    base, reporter = sharp_base, SilentReporter()
    options = {"validation": validation, "sources": [source]}
    spec = spec_for(base, optimization=TWO, seed=5)
    of_all = options | {"memory_bytes": memory, "with_documents": True}
    ended = train(spec, base, training, output=tmp_path / "all", reporter=reporter, **of_all)
    found = report(tmp_path / "all")["replicas"]
    assert [run["seed"] for run in found["runs"]] == [5, 6] and ended.step == 12
    curves, evaluations = [], []
    for run in found["runs"]:
        alone, output = SilentReporter(), tmp_path / str(run["seed"])
        train(spec_for(base, seed=run["seed"]), base, training, output=output, reporter=alone, **options)
        assert report(output)["final"]["valid_loss"] == pytest.approx(run["valid_loss"], abs=1e-9)
        curves.append([message.train_loss for message in alone.messages if message.type == "step"])
        evaluations.append([message.valid_loss for message in alone.messages if message.type == "evaluation"])
    assert_near(tmp_path / "all", tmp_path / str(found["kept_seed"]), 1e-10 if memory is ALL_AT_ONCE else 0.0)
    assert verify_directory(tmp_path / "all").spec.seed == found["kept_seed"]
    assert "### Several seeds" in (tmp_path / "all" / "README.md").read_text()
    steps = [message for message in reporter.messages if message.type == "step"]
    assert [message.step for message in steps] == list(range(1, 13))
    assert {message.total_steps for message in steps} == {12}
    told = {message.step: message.train_loss for message in steps}
    looked = {message.step: message.valid_loss for message in reporter.messages if message.type == "evaluation"}
    for number in range(2):
        for step in range(6):  # at once, two steps in a row are one of each seed, in whatever order
            places = (6 * number + step + 1,) if memory is ONE_AFTER_ANOTHER else (2 * step + 1, 2 * step + 2)
            (place,) = [each for each in places if told[each] == pytest.approx(curves[number][step], abs=1e-9)]
            assert steps[place - 1].replica == number
            if step % 2:
                assert looked.pop(place) == pytest.approx(evaluations[number][step // 2], abs=1e-9)
    assert not looked


def test_memory_bounds_how_many_train_at_once(causal, training, validation, spec_for, tmp_path):
    """The one that is left over trains alone, and each checkpoint knows of all."""
    spec, first, second = spec_for(causal, optimization={"seeds": 3}), StopAt(6), SilentReporter()
    options = {"validation": validation, "output": tmp_path / "a"}
    train(spec, causal, training, reporter=first, checkpoints=tmp_path / "of_three", **options)
    (begun,) = [message for message in first.messages if message.type == "started"]
    assert (begun.first_step, begun.total_steps, begun.memory.replicas) == (1, 18, 3)
    assert begun.memory.alone == begun.memory.shared + 3 * (begun.memory.adapter + begun.memory.passes)
    assert "Seeds 0, 1, 2 at once, of 3." in [getattr(message, "message", "") for message in first.messages]
    assert [path.name for path in (tmp_path / "of_three").iterdir()] == ["step-00000006"]
    room = begun.memory.alone - 1
    train(spec, causal, training, reporter=second, checkpoints=tmp_path / "saved", memory_bytes=room, **options)
    begun = [message for message in second.messages if message.type == "started"]
    assert [(message.first_step, message.memory.replicas) for message in begun] == [(1, 2), (13, 1)]
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == [f"step-{n:08d}" for n in (4, 8, 12, 14, 16, 18)]


@pytest.fixture(scope="module", params=[ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def whole(request, causal, training, validation, spec_for, tmp_path_factory):
    """What a run that is not stopped delivers, and the memory that it has."""
    output = tmp_path_factory.mktemp("seeds") / "whole"
    spec = spec_for(causal, optimization=TWO)
    train(
        spec, causal, training, validation=validation, output=output, reporter=SilentReporter(),
        memory_bytes=request.param,
    )  # fmt: skip
    return output, request.param


@pytest.mark.parametrize("last", [4, 7])
def test_a_stopped_run_goes_on_with_each_seed_where_it_was(
    causal, training, validation, spec_for, tmp_path, adapter_bytes, whole, last
):
    spec, (expected, memory) = spec_for(causal, optimization=TWO), whole
    options = {"validation": validation, "memory_bytes": memory, "output": tmp_path / "a"}
    checkpoints = tmp_path / "checkpoints"
    stopped = train(spec, causal, training, reporter=StopAt(last), checkpoints=checkpoints, **options)
    newest = max(checkpoints.iterdir())
    last += last % 2 if memory is ALL_AT_ONCE else 0  # both take the step
    assert (stopped.type, stopped.step, stopped.directory) == ("stopped", last, str(newest))
    again = SilentReporter()
    train(spec, causal, training, reporter=again, resume_from=newest, **options)
    assert steps_told(again) == list(range(last + 1, 13))
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(expected)
    assert report(tmp_path / "a")["replicas"] == report(expected)["replicas"]


@pytest.mark.parametrize("last", [7])
def test_a_killed_run_goes_on_at_its_newest_checkpoint(
    causal, training, validation, spec_for, tmp_path, adapter_bytes, whole, last
):
    spec, (expected, memory) = spec_for(causal, optimization=TWO), whole
    options = {"validation": validation, "memory_bytes": memory, "output": tmp_path / "a"}
    checkpoints = tmp_path / "checkpoints"
    with pytest.raises(KilledError):
        train(spec, causal, training, reporter=KilledAt(last), checkpoints=checkpoints, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]
    again = SilentReporter()
    train(spec, causal, training, reporter=again, resume_from=max(checkpoints.iterdir()), **options)
    assert steps_told(again) == list(range((4 if memory is ALL_AT_ONCE else 6) + 1, 13))
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(expected)
    assert report(tmp_path / "a")["replicas"] == report(expected)["replicas"]


def test_a_run_goes_on_with_other_memory(causal, training, validation, spec_for, tmp_path, whole):
    """With less, the seeds that had begun go on one after another; with more, together again."""
    spec, (expected, before) = spec_for(causal, optimization=TWO), whole
    after = ONE_AFTER_ANOTHER if before is ALL_AT_ONCE else ALL_AT_ONCE
    checkpoints, again = tmp_path / "checkpoints", SilentReporter()
    options = {"validation": validation, "output": tmp_path / "a", "checkpoints": checkpoints}
    train(spec, causal, training, reporter=StopAt(4), memory_bytes=before, **options)
    stopped = train(
        spec,
        causal,
        training,
        reporter=StopAt(7),
        memory_bytes=after,
        resume_from=max(checkpoints.iterdir()),
        **options,
    )
    assert stopped.type == "stopped"
    train(
        spec, causal, training, reporter=again, memory_bytes=before, resume_from=max(checkpoints.iterdir()), **options
    )
    assert steps_told(again) == list(range(stopped.step + 1, 13))
    for run, other in zip(
        report(tmp_path / "a")["replicas"]["runs"], report(expected)["replicas"]["runs"], strict=True
    ):
        assert run["valid_loss"] == pytest.approx(other["valid_loss"], abs=1e-4)


def test_a_seed_that_ends_early_leaves_the_others_as_they_are(
    causal, training, validation, spec_for, tmp_path, in_precision
):
    rates = {"learning_rate": 0.3, "max_steps": 8}
    ending = {"evaluation": {"patience": 1, "every_steps": 1, "keep": "best"}, "checkpoint": {"every_steps": 3}}
    with in_precision(causal, torch.float64):
        spec = spec_for(causal, optimization={"seeds": 3, **rates}, **ending)
        told, options = SilentReporter(), {"validation": validation, "output": tmp_path / "all"}
        ended = train(spec, causal, training, reporter=told, checkpoints=tmp_path / "saved", **options)
        found = report(tmp_path / "all")["replicas"]
        for run in found["runs"]:
            output = tmp_path / str(run["seed"])
            train(
                spec_for(causal, optimization=rates, seed=run["seed"], **ending), causal, training,
                validation=validation, output=output, reporter=SilentReporter(),
            )  # fmt: skip
            assert report(output)["steps"] == run["steps"]
            assert report(output)["final"]["valid_loss"] == pytest.approx(run["valid_loss"], abs=1e-8)
        taken = [run["steps"] for run in found["runs"]]
        assert len(set(taken)) > 1 and min(taken) < 8
        assert steps_told(told) == list(range(1, sum(taken) + 1)) and ended.step == sum(taken)
        assert_near(tmp_path / "all", tmp_path / str(found["kept_seed"]), 1e-8)
        newest = SilentReporter()  # which knows that one of them had ended
        train(spec, causal, training, reporter=newest, resume_from=max((tmp_path / "saved").iterdir()), **options)
        assert [run["steps"] for run in report(tmp_path / "all")["replicas"]["runs"]] == taken


WILD = {"learning_rate_multiplier": 100.0, "clip_norm": None, "warmup_fraction": 0.0, "weight_decay": 1.0}
WILD |= {"max_steps": 60, "epochs": 60}


def test_a_run_all_of_whose_seeds_diverge_ends(base, training, validation, spec_for, tmp_path):
    rates = WILD | {"learning_rate": 1.0, "seeds": 3}
    spec, names = spec_for(base, lora={"alpha": 1024}, optimization=rates), set(base.model.state_dict())
    with pytest.raises(TrainingDivergedError):
        train(spec, base, training, output=tmp_path / "a", reporter=SilentReporter())
    assert list(tmp_path.iterdir()) == []
    assert set(base.model.state_dict()) == names and base.rendezvous is None


@pytest.mark.parametrize("seeds", [1, 2])
def test_want_of_memory_is_told_also_before_the_first_step(causal, training, spec_for, tmp_path, seeds):
    lacking = replace(causal, tokenizer=LacksMemory(causal.tokenizer))
    with pytest.raises(OutOfMemoryError):
        spec = spec_for(causal, optimization={"seeds": seeds})
        train(spec, lacking, training, output=tmp_path / "a", reporter=SilentReporter())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory", [ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def test_a_learning_rate_that_diverges_is_left_out(base, training, validation, spec_for, tmp_path, memory):
    rates = WILD | {"learning_rate": (1.0, 1e-7)}
    told, checkpoints = SilentReporter(), tmp_path / "checkpoints"
    options = {"validation": validation, "output": tmp_path / "a", "memory_bytes": memory}
    spec = spec_for(base, lora={"alpha": 1024}, optimization=rates)
    ended = train(spec, base, training, reporter=told, checkpoints=checkpoints, **options)
    lost, kept = report(tmp_path / "a")["replicas"]["runs"]
    assert (lost["diverged"], lost["valid_loss"], kept["diverged"], kept["steps"]) == (True, None, False, 60)
    assert lost["learning_rate"] == pytest.approx(100.0) and lost["steps"] < 60
    assert steps_told(told) == list(range(1, lost["steps"] + 61)) and ended.step == lost["steps"] + 60
    assert any("Learning rate 100:" in getattr(each, "message", "") for each in told.messages)
    assert report(tmp_path / "a")["learning_rate"] == pytest.approx(1e-5)
    again = SilentReporter()  # a checkpoint knows of it
    train(spec, base, training, reporter=again, resume_from=max(checkpoints.iterdir()), **options)
    assert report(tmp_path / "a")["replicas"]["runs"][0] == lost and steps_told(again) == []


def test_one_that_diverges_after_an_interruption_counts_the_tokens_before_it(
    base, training, validation, spec_for, tmp_path
):
    rates = WILD | {"learning_rate": (1.0, 1e-7)}
    spec = spec_for(base, lora={"alpha": 1024}, optimization=rates, checkpoint={"every_steps": 1})
    options = {"validation": validation, "output": tmp_path / "a", "memory_bytes": ONE_AFTER_ANOTHER}
    train(spec, base, training, reporter=SilentReporter(), **options)
    lost = report(tmp_path / "a")["replicas"]["runs"][0]
    assert lost["diverged"] and lost["steps"] > 1
    checkpoints = tmp_path / "checkpoints"
    train(spec, base, training, reporter=StopAt(lost["steps"] - 1), checkpoints=checkpoints, **options)
    train(spec, base, training, reporter=SilentReporter(), resume_from=max(checkpoints.iterdir()), **options)
    assert report(tmp_path / "a")["replicas"]["runs"][0] == lost


def test_each_learning_rate_is_a_run_of_its_own_and_the_best_is_delivered(
    sharp_base, training, validation, spec_for, tmp_path
):
    base, told, rates = sharp_base, SilentReporter(), (0.0005, 0.02)
    spec = spec_for(base, optimization={"learning_rate": rates, "seeds": 2}, seed=3)
    output = tmp_path / "all"
    train(spec, base, training, validation=validation, output=output, reporter=told, with_documents=True)
    found = report(tmp_path / "all")["replicas"]
    assert [(run["learning_rate"], run["seed"]) for run in found["runs"]] == [
        (rate, seed) for rate in rates for seed in (3, 4)
    ]
    for number, run in enumerate(found["runs"]):
        output, own = tmp_path / str(number), {"learning_rate": run["learning_rate"]}
        alone = spec_for(base, optimization=own, seed=run["seed"])
        by_itself = SilentReporter()
        train(alone, base, training, validation=validation, output=output, reporter=by_itself)
        assert report(output)["final"]["valid_loss"] == pytest.approx(run["valid_loss"], abs=1e-9)
    whole, one = (next(m for m in reporter.messages if isinstance(m, Started)) for reporter in (told, by_itself))
    assert whole.reference.steps == pytest.approx(4 * one.reference.steps)
    losses = [run["valid_loss"] for run in found["runs"]]
    best_one = losses.index(min(losses))
    assert_near(tmp_path / "all", tmp_path / str(best_one), 1e-10)
    assert found["kept_learning_rate"] == rates[best_one // 2] == report(tmp_path / "all")["learning_rate"]
    kept = [run["valid_accuracy"] for run in found["runs"] if run["learning_rate"] == rates[best_one // 2]]
    assert found["mean"] == pytest.approx(fmean(kept)) and found["deviation"] == pytest.approx(stdev(kept))
    assert "### Several learning rates" in (tmp_path / "all" / "README.md").read_text()
    said = [getattr(message, "message", "") for message in told.messages]
    named = "0.0005 with seed 3, 0.0005 with seed 4, 0.02 with seed 3, 0.02 with seed 4"
    assert f"Learning rates {named} at once, of 4." in said


def test_several_learning_rates_need_a_validation_file(causal, training, spec_for, tmp_path):
    spec = spec_for(causal, optimization={"learning_rate": (0.001, 0.01)})
    with pytest.raises(SpecError, match="validation file"):
        train(spec, causal, training, output=tmp_path / "a", reporter=SilentReporter())


def test_seeds_of_a_job_in_a_pack_join_it(causal, training, validation, spec_for, tmp_path):
    specs = [spec_for(causal, optimization=TWO), spec_for(causal, seed=8, optimization={"max_steps": 9})]
    jobs = [
        PackedJob(spec, training, tmp_path / f"packed-{n}", SilentReporter(), validation)
        for n, spec in enumerate(specs)
    ]
    assert [ended.type for ended in train_packed(causal, jobs)] == ["finished", "finished"]
    assert steps_told(jobs[0].reporter) == list(range(1, 13))
    for number, spec in enumerate(specs):
        alone = tmp_path / f"alone-{number}"
        train(spec, causal, training, validation=validation, output=alone, reporter=SilentReporter())
        assert_near(tmp_path / f"packed-{number}", alone, 1e-3)


def test_a_damaged_checkpoint_and_one_of_another_run_are_refused(causal, training, validation, spec_for, tmp_path):
    spec, checkpoints = spec_for(causal, optimization=TWO), tmp_path / "checkpoints"
    options = {"validation": validation, "output": tmp_path / "a", "reporter": SilentReporter()}
    train(spec, causal, training, **options | {"reporter": StopAt(3)}, checkpoints=checkpoints)
    newest = max(checkpoints.iterdir())
    assert len(read_start(newest).weights) > 0
    other = spec_for(causal, optimization=TWO, lora={"alpha": 3.0})
    with pytest.raises(CheckpointError, match=r"These differ: lora\.alpha"):
        train(other, causal, training, **options, resume_from=newest)
    archive = newest / "replicas.tar"
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="a file has changed"):
        train(spec, causal, training, **options, resume_from=newest)
    alone = spec_for(causal)
    train(alone, causal, training, **options | {"reporter": StopAt(3)}, checkpoints=tmp_path / "of_one")
    with pytest.raises(CheckpointError, match="as one of several replicas"):
        train(spec, causal, training, **options, resume_from=tmp_path / "of_one" / "step-00000003")
