"""One trainer at a time, and a new one where the last did not end its trainings cleanly."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgg_core.catalogue import BaseModelEntry, DirectorySource
from sgg_core.spec import TrainingSpec
from worker.child import spawn
from worker.errors import TrainingFailedError
from worker.messages import InputFile, Train
from worker.supervisor import Supervisor

PATIENT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """One whose trainers take whatever they are told, and say nothing."""
    started = Supervisor(lambda: spawn(PATIENT))
    yield started
    started.stop()


@pytest.fixture
def command(tmp_path: Path) -> Train:
    source = DirectorySource(path=tmp_path)
    return Train(
        run=0,
        spec=TrainingSpec(base_model="tiny"),
        base_model=BaseModelEntry(name="tiny", kind="causal", source=source, description="None.", context_tokens=64),
        training=InputFile(path=tmp_path / "train.jsonl", filename="train.jsonl"),
        output=tmp_path / "output",
        checkpoints=tmp_path / "checkpoints",
        shared=True,
    )


def test_a_trainer_in_which_one_training_was_given_up_ends_with_the_others_and_not_before(
    supervisor: Supervisor, command: Train
) -> None:
    with supervisor.training(command) as other:
        with supervisor.training(command) as given_up:
            given_up.abandon()
        assert supervisor.pid == other.pid == given_up.pid and other.child.alive
    assert supervisor.pid != other.pid and not other.child.alive


def test_a_trainer_whose_trainings_ended_cleanly_is_kept(supervisor: Supervisor, command: Train) -> None:
    with supervisor.training(command) as first, supervisor.training(command):
        pass
    with supervisor.training(command) as next_one:
        assert next_one.pid == first.pid


@pytest.mark.parametrize(
    ("code", "replaced"), [("out_of_memory", True), ("internal_error", True), ("training_diverged", False)]
)
def test_a_trainer_that_an_error_may_have_left_unfit_is_replaced(
    supervisor: Supervisor, command: Train, code: str, replaced: bool
) -> None:
    with pytest.raises(TrainingFailedError), supervisor.training(command) as failed:
        raise TrainingFailedError(code, "No.", False)
    assert (supervisor.pid != failed.pid) is replaced
