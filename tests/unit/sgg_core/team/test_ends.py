"""How a team ends: with its run, with any of its processes, and before it begins."""

import os
import signal
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch

from sgg_core import trainer
from sgg_core.errors import HelperLostError, SpecError
from sgg_core.reporting import SilentReporter, StepMetrics

train = partial(trainer.train, with_documents=False)  # nobody reads them here


def losses(reporter):
    return [message.train_loss for message in reporter.messages if isinstance(message, StepMetrics)]


class KillsAt(SilentReporter):
    """Kills the run's helper after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.killed = 0

    def control(self):
        if len(losses(self)) == self.steps:
            (self.killed,) = helpers()
            os.kill(self.killed, signal.SIGKILL)
        return "continue"


def helpers():
    """Process ids of the helpers that this process has started and that live."""
    found = psutil.Process().children()
    return [each.pid for each in found if "sgg_core.team.helper_process" in each.cmdline()]


def test_a_killed_helper_ends_the_run_at_once_and_leaves_no_process(alone, spec_for, texts, tmp_path):
    before, threads = helpers(), torch.get_num_threads()
    assert before == []
    reporter = KillsAt(2)
    spec = spec_for(alone["causal"], lora={"rank": 2}, resources={"gpus": 2})
    with pytest.raises(HelperLostError, match=r"ended with signal 9\. The run goes on from its last checkpoint"):
        train(spec, alone["causal"], texts, output=tmp_path / "never", reporter=reporter)
    assert helpers() == [] and not psutil.pid_exists(reporter.killed) and torch.get_num_threads() == threads
    assert len(losses(reporter)) == 2 and not (tmp_path / "never").exists()
    assert any("2 processes on the CPU share every batch" in getattr(m, "message", "") for m in reporter.messages)


def test_gpus_that_are_not_there_are_named(causal, alone, spec_for, texts, tmp_path):
    spec = spec_for(causal, resources={"gpus": 2})
    far = replace(alone["causal"], device=torch.device("cuda"))
    for base, said in (
        (far, r"resources\.gpus is 2, and the trainer sees 0 GPU"),
        (causal, r"resources\.gpus .* disk"),
    ):
        with pytest.raises(SpecError, match=said):
            train(spec, base, texts, output=tmp_path / "never", reporter=SilentReporter())
