"""What a run is said to cost before it: with several seeds and a rival, what it costs without them and theirs."""

import pytest

from sgg_core.estimate import RUN_SECONDS
from sgg_core.reporting import SilentReporter
from sgg_core.trainer import train

RIVAL = {"baselines": ["plain_lora"]}
ALONE = {"baselines": []}


@pytest.fixture
def seconds(base, training, validation, spec_for, tmp_path):
    """What a run of such a spec announces, less what is paid once a job."""

    def announced(held_out=validation, **groups):
        reporter = SilentReporter()
        train(
            spec_for(base, **groups), base, training, validation=held_out, output=tmp_path / "adapter",
            reporter=reporter,
        )  # fmt: skip
        started = next(message for message in reporter.messages if message.type == "started")
        return started.reference_seconds - RUN_SECONDS[base.entry.kind]

    return announced


def test_three_seeds_take_three_times_the_training_of_one(seconds):
    one = seconds(evaluation=RIVAL)
    assert seconds(evaluation=RIVAL, optimization={"seeds": 3}) == pytest.approx(3 * one)


def test_a_rival_takes_the_steps_of_plain_lora(seconds):
    alone = seconds(evaluation=ALONE)
    rival = seconds(evaluation=RIVAL) - alone
    plain = seconds(evaluation=ALONE, method="supervised")
    assert 0 < rival < plain  # which has checkpoints and evaluations of its own besides its steps


def test_what_trains_no_rival_pays_for_none(seconds):
    assert seconds(evaluation=RIVAL, method="supervised") == seconds(evaluation=ALONE, method="supervised")
    assert seconds(None, evaluation=RIVAL) == seconds(None, evaluation=ALONE)
