"""A real trainer keeps base models loaded between trainings: a job on one that is there reads nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgg_core.catalogue import BaseModelEntry, DirectorySource
from sgg_core.reporting import Stopped
from sgg_core.shapes import Limits
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import save_tiny_base
from worker.child import TrainerChild, spawn
from worker.fork_server import start_trainer
from worker.messages import Failed, InputFile, Ready, Said, Steer, Train, Warm
from worker.supervisor import Supervisor
from worker.testing import TWO_LABELS

PLENTY = 2**30


@pytest.fixture(scope="module")
def trainer() -> Iterator[TrainerChild]:
    child = TrainerChild(start_trainer())
    yield child
    child.close()


@pytest.fixture
def entries(tmp_path: Path) -> list[BaseModelEntry]:
    return [save_tiny_base(tmp_path / "causal"), save_tiny_base(tmp_path / "encoder", "encoder")]


def command(entry: BaseModelEntry, directory: Path, run: int = 1, keep_bytes: int = PLENTY) -> Train:
    examples = directory / "examples.jsonl"
    examples.write_bytes(TWO_LABELS)
    return Train(
        run=run,
        spec=TrainingSpec(base_model=entry.name),
        base_model=entry,
        training=InputFile(path=examples, filename=examples.name),
        output=directory / f"output-{run}",
        checkpoints=directory / f"checkpoints-{run}",
        keep_bytes=keep_bytes,
    )


def loaded_after(child: TrainerChild, wanted: Train | Warm) -> tuple[str, ...]:
    """Let the child do it, a training up to its first step. Gives the base models that it then holds."""
    while child.receive(0.0) is not None:
        pass
    if isinstance(wanted, Train):
        child.open_box(wanted.run)
        child.send(Steer(run=wanted.run, action="cancel"))
    child.send(wanted)
    if isinstance(wanted, Train):
        told: list[object] = []
        while Stopped not in told:
            message = child.receive_of(wanted.run, 60)
            assert isinstance(message, Said)
            told.append(type(message.message))
        child.close_box(wanted.run)
    ready = child.receive(60)
    assert isinstance(ready, Ready) and child.base_models == ready.base_models
    return ready.base_models


def test_a_second_job_on_a_loaded_base_model_loads_nothing(
    trainer: TrainerChild, entries: list[BaseModelEntry], tmp_path: Path
) -> None:
    causal, encoder = entries
    assert isinstance(trainer.receive(120), Ready)
    assert loaded_after(trainer, Warm(base_model=causal)) == ("tiny-causal",)
    assert loaded_after(trainer, command(encoder, tmp_path, run=1)) == ("tiny-causal", "tiny-encoder")
    for entry in entries:  # what is not there any more cannot be loaded
        assert isinstance(entry.source, DirectorySource)
        entry.source.path.rename(entry.source.path.with_suffix(".gone"))
    assert loaded_after(trainer, command(causal, tmp_path, run=2)) == ("tiny-encoder", "tiny-causal")
    assert loaded_after(trainer, command(encoder, tmp_path, run=3)) == ("tiny-causal", "tiny-encoder")
    assert loaded_after(trainer, command(encoder, tmp_path, run=4, keep_bytes=0)) == ("tiny-encoder",)


@pytest.mark.parametrize(("loaded", "shared"), [(("tiny-encoder", "tiny-causal"), True), (("tiny-causal",), False)])
def test_the_supervisor_knows_whether_other_base_models_took_memory(
    loaded: tuple[str, ...], shared: bool, entries: list[BaseModelEntry], tmp_path: Path
) -> None:
    lines = [Ready(base_models=loaded), Failed(run=1, code="other", message="no", users_fault=False)]
    script = f"import sys; sys.stdin.readline(); print({lines[0].model_dump_json()!r}, flush=True)"
    script += f"; print({lines[1].model_dump_json()!r}, flush=True); input()"
    supervisor = Supervisor(lambda: spawn([sys.executable, "-c", script]))
    try:
        with supervisor.training(command(entries[0], tmp_path)) as run:
            assert isinstance(run.child.receive_of(1, 60), Failed)
            assert run.shares_memory is shared
    finally:
        supervisor.stop()


def test_a_file_that_the_server_took_is_trained_on_however_large(
    trainer: TrainerChild, entries: list[BaseModelEntry], tmp_path: Path
) -> None:
    wanted = command(entries[0], tmp_path, run=99)
    with wanted.training.path.open("ab") as examples:
        examples.write((b" " * 2**20 + b"\n") * (Limits().max_bytes // 2**20))
    loaded_after(trainer, wanted)  # which fails unless it gets to its first step
