"""Several seeds as one run: each is the run of its own, the best one is kept, and a stop goes on at the right seed."""

import json
import math
from statistics import fmean, stdev

import pytest

from sgg_core.manifest import verify_directory
from sgg_core.reporting import SilentReporter
from sgg_core.spread import SeedOutcome, best, spread
from sgg_core.trainer import train

THREE = {"seeds": 3}
CHEAP = {"baselines": []}


class StopAt(SilentReporter):
    """Ends the run before the step after `last`."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def control(self):
        steps = [message.step for message in self.messages if message.type == "step"]
        return "drain" if steps and max(steps) >= self.last else "continue"


def outcome(seed, loss, accuracy=0.5):
    return SeedOutcome(
        seed=seed, steps=6, trained_tokens=9, train_loss=0.1 * seed, valid_loss=loss, valid_accuracy=accuracy
    )


def report(directory):
    return json.loads((directory / "report.json").read_text())


def test_the_lowest_validation_loss_is_kept_and_the_first_one_without_such_a_file():
    assert best([outcome(1, 0.5), outcome(2, 0.3), outcome(3, 0.4)]) == 1
    assert best([outcome(1, None, None), outcome(2, None, None)]) == 0


def test_mean_spread_and_interval_are_those_of_students_t():
    values = [0.7, 0.8, 0.9]
    found = spread([outcome(n, 0.5, value) for n, value in enumerate(values)])
    assert (found.mean, found.deviation) == pytest.approx((fmean(values), stdev(values)))
    assert found.high == pytest.approx(min(1.0, 0.8 + 4.303 * 0.1 / math.sqrt(3)), abs=1e-3)
    assert "With 3 seeds the accuracy on the validation examples was 0.800 on average, from 0.700" in found.verdict
    blind = spread([outcome(1, None, None), outcome(2, None, None)])
    assert blind.measure == "last training loss" and "no validation file" in blind.verdict


def test_each_seed_is_a_run_of_its_own_and_the_best_is_delivered(
    base, training, validation, spec_for, tmp_path, adapter_bytes
):
    reporter = SilentReporter()
    spec = spec_for(base, optimization=THREE, evaluation=CHEAP, seed=5)
    ended = train(spec, base, training, validation=validation, output=tmp_path / "all", reporter=reporter)
    found = report(tmp_path / "all")["seeds"]
    assert [run["seed"] for run in found["runs"]] == [5, 6, 7] and ended.step == 18
    for run in found["runs"]:
        alone = tmp_path / str(run["seed"])
        train(
            spec_for(base, evaluation=CHEAP, seed=run["seed"]), base, training, validation=validation, output=alone,
            reporter=SilentReporter(),
        )  # fmt: skip
        assert report(alone)["final"]["valid_loss"] == pytest.approx(run["valid_loss"], abs=1e-9)
    assert adapter_bytes(tmp_path / "all") == adapter_bytes(tmp_path / str(found["kept_seed"]))
    assert verify_directory(tmp_path / "all").spec.seed == found["kept_seed"]
    assert "### Several seeds" in (tmp_path / "all" / "README.md").read_text()
    steps = [message for message in reporter.messages if message.type == "step"]
    assert [message.step for message in steps] == list(range(1, 19))
    assert {message.total_steps for message in steps} == {18}


@pytest.fixture(scope="module")
def whole(causal, training, validation, spec_for, tmp_path_factory):
    """What a run that is not stopped delivers."""
    output = tmp_path_factory.mktemp("seeds") / "whole"
    spec = spec_for(causal, optimization=THREE, evaluation=CHEAP)
    train(spec, causal, training, validation=validation, output=output, reporter=SilentReporter())
    return output


@pytest.mark.parametrize("last", [6, 9, 12])
def test_a_stopped_run_goes_on_at_the_seed_that_it_was_at(
    causal, training, validation, spec_for, tmp_path, adapter_bytes, whole, last
):
    spec = spec_for(causal, optimization=THREE, evaluation=CHEAP)
    checkpoints = tmp_path / "checkpoints"
    stopped = train(
        spec, causal, training, validation=validation, output=tmp_path / "a", reporter=StopAt(last),
        checkpoints=checkpoints,
    )  # fmt: skip
    assert (stopped.type, stopped.step) == ("stopped", last)
    again = SilentReporter()
    newest = max(checkpoints.iterdir())
    train(
        spec, causal, training, validation=validation, output=tmp_path / "a", reporter=again, resume_from=newest,
    )  # fmt: skip
    assert [message.step for message in again.messages if message.type == "step"] == list(range(last + 1, 19))
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(whole)
    assert report(tmp_path / "a")["seeds"] == report(whole)["seeds"]
