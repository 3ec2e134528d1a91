"""What `sgg train` shows of a run."""

import signal

import pytest

from cli.progress import LineView
from cli.train import ViewReporter
from sgg_core.reporting import Started


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def begun(first_step):
    figures = {"trainable_parameters": 8, "learning_rates": (0.1,), "batch_size": 2, "epochs": 3}
    return Started(first_step=first_step, total_steps=12, **figures)


@pytest.mark.parametrize(
    ("first_step", "lines"),
    [
        (1, ["training: step 0/12"]),
        (7, ["Training goes on after step 6 of 12.", "training: step 6/12"]),
    ],
)
def test_a_run_that_resumes_says_after_which_step(capsys, first_step, lines):
    reporter = ViewReporter(LineView())
    reporter.report(begun(first_step))
    assert capsys.readouterr().out.splitlines() == lines
    reporter.report(begun(first_step))  # as after the folds of a cross-validation
    assert capsys.readouterr().out == ""
