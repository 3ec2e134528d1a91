"""Training with folds: what they say is what runs of their own say, and the adapter is that of all examples."""

from functools import partial

import pytest

from sgg_core import trainer
from sgg_core.errors import DataError, SpecError, TrainingDivergedError
from sgg_core.folds import deal, only
from sgg_core.lineup import Lineup, total_steps
from sgg_core.manifest import verify_directory
from sgg_core.packed.train import PackedJob, train_packed
from sgg_core.plan import make_plan
from sgg_core.reporting import SilentReporter
from tests.unit.sgg_core.test_replicas import (
    ALL_AT_ONCE,
    ONE_AFTER_ANOTHER,
    WILD,
    KilledAt,
    KilledError,
    StopAt,
    assert_near,
    report,
    sharp_base,
    steps_told,
)

train = partial(trainer.train, with_documents=False)  # nobody reads them here

__all__ = ["sharp_base"]
RATES = (0.0005, 0.02)


def told_of(reporter):
    return [message.message for message in reporter.messages if message.type == "notice"]


class Looking(SilentReporter):
    """Remembers the evaluations of a run."""

    @property
    def last(self):
        return [message for message in self.messages if message.type == "evaluation"][-1]


@pytest.mark.parametrize("memory", [ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def test_folds_choose_the_learning_rate_of_the_run_on_all_examples(sharp_base, training, spec_for, tmp_path, memory):
    base, told = sharp_base, SilentReporter()
    spec = spec_for(base, optimization={"learning_rate": RATES, "folds": 2}, seed=3)
    options = {"reporter": told, "memory_bytes": memory, "with_documents": True}
    ended = train(spec, base, training, output=tmp_path / "all", **options)
    found, losses = report(tmp_path / "all")["cross_validation"], []
    for rate in RATES:
        parts = []
        for part in deal(training, 2, 3):
            alone, output = Looking(), tmp_path / f"{rate}-{part.left_out}"
            train(
                spec_for(base, optimization={"learning_rate": rate}, seed=3), base, only(training, part.kept),
                validation=only(training, part.left_out), output=output, reporter=alone,
            )  # fmt: skip
            parts.append(alone.last)
        losses.append(sum(each.valid_loss * each.examples for each in parts) / len(training))
    assert [each["loss"] for each in found["rates"]] == pytest.approx(losses, abs=1e-9)
    kept = RATES[losses.index(min(losses))]
    assert found["learning_rate"] == kept == report(tmp_path / "all")["learning_rate"]
    single = spec_for(base, optimization={"learning_rate": kept}, seed=3)
    train(single, base, training, output=tmp_path / "single", reporter=SilentReporter())
    assert_near(tmp_path / "all", tmp_path / "single", 1e-10)
    assert report(tmp_path / "all")["examples"] == 8 and report(tmp_path / "all")["replicas"] is None
    assert steps_told(told) == list(range(1, 31)) and ended.step == 30
    assert {message.total_steps for message in told.messages if message.type == "step"} == {30}
    assert not [message for message in told.messages if message.type == "evaluation"]
    assert found["verdict"] in told_of(told) and "All examples." in told_of(told)
    if memory is ALL_AT_ONCE:
        named = "0.0005 in fold 1, 0.0005 in fold 2, 0.02 in fold 1, 0.02 in fold 2"
        assert f"Learning rates {named} at once, of 4." in told_of(told)
    assert "### Cross-validation" in (tmp_path / "all" / "README.md").read_text()
    assert verify_directory(tmp_path / "all").spec.optimization.folds == 2


def test_a_validation_file_is_left_to_judge_what_the_folds_have_chosen(
    sharp_base, training, validation, source, spec_for, tmp_path
):
    """Seeds are trained after the folds, and the validation file chooses among these alone."""
    base, told = sharp_base, Looking()
    spec = spec_for(base, optimization={"folds": 3, "seeds": 2}, evaluation={"keep": "best", "patience": 2}, seed=1)
    train(
        spec, base, training, validation=validation, sources=[source], output=tmp_path / "all", reporter=told,
        memory_bytes=ALL_AT_ONCE,
    )  # fmt: skip
    found = report(tmp_path / "all")
    assert [run["seed"] for run in found["replicas"]["runs"]] == [1, 2]
    assert found["cross_validation"]["examples"] == 8 and found["cross_validation"]["folds"] == 3
    assert {message.examples for message in told.messages if message.type == "evaluation"} == {len(validation)}
    said = told_of(told)
    assert "Folds 1, 2, 3 at once, of 3." in said and "Seeds 1, 2 at once, of 2." in said
    assert any(message.startswith("Fold 2: Loss ") for message in said)
    assert steps_told(told) == list(range(1, len(steps_told(told)) + 1))


@pytest.fixture(scope="module", params=[ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def whole(request, causal, training, spec_for, tmp_path_factory):
    """What a run that is not stopped delivers, and the memory that it has."""
    output = tmp_path_factory.mktemp("folds") / "whole"
    spec = spec_for(causal, optimization={"folds": 2})
    train(spec, causal, training, output=output, reporter=SilentReporter(), memory_bytes=request.param)
    return output, request.param


@pytest.mark.parametrize("last", [3, 8, 12, 15])
def test_a_stopped_run_goes_on_where_it_was(causal, training, spec_for, tmp_path, adapter_bytes, whole, last):
    """In a fold, between folds, between these and the run on all examples, and in that."""
    spec, (expected, memory) = spec_for(causal, optimization={"folds": 2}), whole
    options = {"memory_bytes": memory, "output": tmp_path / "a"}
    checkpoints = tmp_path / "checkpoints"
    stopped = train(spec, causal, training, reporter=StopAt(last), checkpoints=checkpoints, **options)
    assert stopped.type == "stopped" and stopped.step in (last, last + 1)
    newest, again = max(checkpoints.iterdir()), SilentReporter()
    train(spec, causal, training, reporter=again, resume_from=newest, **options)
    assert steps_told(again) == list(range(stopped.step + 1, 19))
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(expected)
    assert report(tmp_path / "a")["cross_validation"] == report(expected)["cross_validation"]


@pytest.mark.parametrize("last", [7, 12, 16])
def test_a_killed_run_goes_on_at_its_newest_checkpoint(
    causal, training, spec_for, tmp_path, adapter_bytes, whole, last
):
    spec, (expected, memory) = spec_for(causal, optimization={"folds": 2}), whole
    options = {"memory_bytes": memory, "output": tmp_path / "a"}
    checkpoints = tmp_path / "checkpoints"
    with pytest.raises(KilledError):
        train(spec, causal, training, reporter=KilledAt(last), checkpoints=checkpoints, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]
    again = SilentReporter()
    train(spec, causal, training, reporter=again, resume_from=max(checkpoints.iterdir()), **options)
    assert steps_told(again)[-1] == 18 and len(steps_told(again)) > 18 - last
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(expected)
    assert report(tmp_path / "a")["cross_validation"] == report(expected)["cross_validation"]


def test_checkpoints_of_folds_tell_no_validation_figures(causal, training, validation, spec_for, tmp_path):
    spec, told = spec_for(causal, optimization={"folds": 2}), SilentReporter()
    train(
        spec, causal, training, validation=validation, output=tmp_path / "a", checkpoints=tmp_path / "c", reporter=told
    )
    saved = {message.step: message.metrics for message in told.messages if message.type == "checkpoint"}
    assert all(("full_valid_loss" in metrics) == (step > 12) for step, metrics in saved.items())
    assert {4, 12, 18} <= saved.keys() and "train_loss" in saved[12]


@pytest.mark.parametrize("memory", [ALL_AT_ONCE, ONE_AFTER_ANOTHER])
def test_a_learning_rate_that_diverges_in_a_fold_is_not_chosen(base, training, spec_for, tmp_path, memory):
    rates = WILD | {"learning_rate": (1.0, 1e-7), "folds": 2}
    spec = spec_for(base, lora={"alpha": 1024}, optimization=rates)
    train(spec, base, training, output=tmp_path / "a", reporter=SilentReporter(), memory_bytes=memory)
    found = report(tmp_path / "a")["cross_validation"]
    assert [each["loss"] is None for each in found["rates"]] == [True, False]
    assert report(tmp_path / "a")["learning_rate"] == pytest.approx(1e-5) and "100 (diverged)" in found["verdict"]


def test_a_run_ends_where_no_learning_rate_lasts_through_all_folds(base, training, spec_for, tmp_path):
    rates, names = WILD | {"learning_rate": 1.0, "folds": 2}, set(base.model.state_dict())
    spec = spec_for(base, lora={"alpha": 1024}, optimization=rates)
    with pytest.raises(TrainingDivergedError, match="at least one fold diverged"):
        train(spec, base, training, output=tmp_path / "a", reporter=SilentReporter())
    assert list(tmp_path.iterdir()) == [] and set(base.model.state_dict()) == names


def test_completions_are_judged_by_their_loss(causal, file_of, spec_for, tmp_path):
    training = file_of([{"prompt": f"{word}?", "completion": f"{word}!"} for word in ("sun", "rain", "snow", "fog")])
    spec = spec_for(causal, optimization={"folds": 2})
    train(spec, causal, training, output=tmp_path / "a", reporter=SilentReporter())
    found = report(tmp_path / "a")["cross_validation"]
    assert (
        found["macro_f1"] is None and found["comparison"]["measure"] == "loss" and "loss per token" in found["verdict"]
    )


def test_folds_of_a_job_in_a_pack_join_it(causal, training, spec_for, tmp_path):
    specs = [spec_for(causal, optimization={"folds": 2}), spec_for(causal, seed=8, optimization={"max_steps": 9})]
    jobs = [PackedJob(spec, training, tmp_path / f"packed-{n}", SilentReporter()) for n, spec in enumerate(specs)]
    assert [ended.type for ended in train_packed(causal, jobs)] == ["finished", "finished"]
    assert steps_told(jobs[0].reporter) == list(range(1, 19))
    for number, spec in enumerate(specs):
        train(spec, causal, training, output=tmp_path / f"alone-{number}", reporter=SilentReporter())
        assert_near(tmp_path / f"packed-{number}", tmp_path / f"alone-{number}", 1e-3)


def test_what_does_not_go_together_is_refused_before_training(causal, training, file_of, spec_for, tmp_path):
    options = {"output": tmp_path / "a", "reporter": SilentReporter()}
    few = file_of([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "y"}])
    with pytest.raises(DataError, match="two examples of each label"):
        train(spec_for(causal, optimization={"folds": 2}), causal, few, **options)
    with pytest.raises(DataError, match="8 examples cannot be split into 9 folds"):
        train(spec_for(causal, optimization={"folds": 9}), causal, training, **options)
    with pytest.raises(SpecError, match="or folds"):
        train(spec_for(causal, optimization={"learning_rate": RATES}), causal, training, **options)
    assert not options["reporter"].messages and not list(tmp_path.iterdir())


def test_a_forecast_counts_the_steps_of_folds(causal, training, spec_for):
    wanted = {"folds": 3, "seeds": 2, "learning_rate": RATES, "max_steps": None, "epochs": 4}
    spec = spec_for(causal, optimization=wanted)
    lineup = Lineup(spec, "causal", training)
    runs = [lineup.replica(number, {}) for number in range(6)]
    assert {run.steps for run in runs} == {8} and lineup.total_steps == 6 * 8 + 2 * 8
    assert total_steps(spec, "causal", 8, 2) == lineup.total_steps
    assert lineup.left(set()) == [0, 1, 2, 3, 4, 5] and lineup.left({0, 1, 2, 3, 4, 5}) == [6, 7]
    assert lineup.left(set(range(8))) == [] and spec.optimization.most_at_once == 6


def test_folds_have_batches_as_large_as_those_of_all_examples(file_of, spec_for, causal):
    """Sixteen examples of each label are many, and what a fold leaves of them is few."""
    training = file_of([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(32)], "many.jsonl")
    spec = spec_for(causal, optimization={"folds": 4, "batch_size": "auto", "max_steps": None})
    lineup = Lineup(spec, "causal", training)
    fold, whole = lineup.replica(0, {}), make_plan(spec, "causal", 32, 2)
    assert (whole.batch_size, fold.spec.optimization.batch_size) == (8, 8)
    plan = make_plan(fold.spec, "causal", 24, 2)
    assert (plan.balanced, plan.batch_size, plan.total_steps) == (True, 8, fold.steps)
