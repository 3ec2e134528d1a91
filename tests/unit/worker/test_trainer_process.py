import errno
import io
import json
import os
import queue
import subprocess
import sys
from pathlib import Path

import pytest

from sgg_core.backbone import LoadedBase
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import DataError, DiskFullError, Problem
from sgg_core.packed import network, seat
from sgg_core.pipe import MessagePipe
from sgg_core.reporting import MemoryNeed, Notice, Started, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import save_tiny_base
from tests.mixtures import save_tiny_mixture
from worker.messages import Alive, Failed, InputFile, Said, Steer, Train, Unshared, Warm
from worker.run_reporter import AbandonedError, RunReporter, Wishes, begin_peak, gpu_memory, peak_memory
from worker.trainer_process import TrainerProcess, describe_failure


class LoudPipe(MessagePipe):
    """A message pipe into memory."""

    def __init__(self) -> None:
        self.messages: list[object] = []

    def send(self, message: object) -> None:
        self.messages.append(message)


def test_a_wish_reaches_the_run_it_is_for_and_no_other() -> None:
    wishes = Wishes()
    first, second = (RunReporter(LoudPipe(), wishes, run) for run in (1, 2))
    wishes.steer(Steer(run=1, action="cancel"))
    assert (first.control(), second.control()) == ("cancel", "continue")
    wishes.steer(Steer(run=2, action="drain"))
    assert (first.control(), second.control()) == ("cancel", "drain")
    wishes.forget(1)
    assert (first.control(), second.control()) == ("continue", "drain")


def test_a_wish_that_is_early_is_not_lost() -> None:
    wishes = Wishes()
    wishes.steer(Steer(run=3, action="cancel"))
    assert RunReporter(LoudPipe(), wishes, 3).control() == "cancel"


def test_asking_for_wishes_tells_that_training_moves_but_not_at_every_step() -> None:
    pipe = LoudPipe()
    reporter = RunReporter(pipe, Wishes(), 4)
    for _ in range(100):
        reporter.control()
    reporter.report(Notice(message="hello"))
    alive, notice = pipe.messages
    assert isinstance(alive, Said) and isinstance(alive.message, Alive) and alive.message.peak_bytes > 2**20
    assert notice == Said(run=4, message=Notice(message="hello"))


def test_a_training_that_was_abandoned_ends_where_it_next_shows_that_it_lives() -> None:
    wishes = Wishes()
    one, other = (RunReporter(LoudPipe(), wishes, run) for run in (1, 2))
    wishes.steer(Steer(run=1, action="abandon"))
    for ask in (one.breathe, one.control):
        with pytest.raises(AbandonedError):
            ask()
    assert other.control() == "continue"


def shared(entry: BaseModelEntry, directory: Path, run: int, steps: int = 1000) -> Train:
    """A training on two texts that others may join, of so many steps."""
    examples = directory / "examples.jsonl"
    examples.write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "b"}\n', encoding="utf-8")
    return Train(
        run=run,
        spec=TrainingSpec(base_model=entry.name, optimization={"epochs": steps}),  # type: ignore[arg-type]
        base_model=entry,
        training=InputFile(path=examples, filename=examples.name),
        output=directory / f"output-{run}",
        checkpoints=directory / f"checkpoints-{run}",
        shared=True,
    )


def together(directory: Path, pipe: LoudPipe, wishes: Wishes) -> None:
    """Serve three trainings that share their passes."""
    entry = save_tiny_base(directory / "base", "encoder")
    commands: queue.SimpleQueue[Warm | Train] = queue.SimpleQueue()
    first, *more = (shared(entry, directory, run) for run in (1, 2, 3))
    for command in more:
        commands.put(command)
    trainer = TrainerProcess(pipe, wishes, commands)
    trainer._serve(first)


def test_trainings_that_were_abandoned_leave_no_file_and_say_nothing(tmp_path: Path) -> None:
    wishes = Wishes()

    class AbandonsAll(LoudPipe):
        def send(self, message: object) -> None:
            super().send(message)
            if isinstance(message, Said) and isinstance(message.message, StepMetrics):
                wishes.steer(Steer(run=message.run, action="abandon"))

    pipe = AbandonsAll()
    together(tmp_path, pipe, wishes)
    steps = [message.run for message in pipe.messages if isinstance(message, Said) and message.message.type == "step"]
    assert sorted(steps) == [1, 2, 3]
    assert not any(isinstance(message, Failed) for message in pipe.messages)
    assert not any(isinstance(message, Said) and message.message.type == "stopped" for message in pipe.messages)
    assert not list(tmp_path.glob("output-*")) and not list(tmp_path.glob("checkpoints-*/*"))


def test_what_ends_all_trainings_that_share_their_passes_is_told_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here memory is short when the third one joins."""
    made: list[LoadedBase] = []

    def twin(base: LoadedBase) -> LoadedBase:
        made.append(base)
        if len(made) == 3:
            raise MemoryError
        return network.twin(base)

    monkeypatch.setattr(seat, "twin", twin)
    pipe = LoudPipe()
    together(tmp_path, pipe, Wishes())
    failed = {message.run: message.code for message in pipe.messages if isinstance(message, Failed)}
    assert failed == {1: "out_of_memory", 2: "out_of_memory", 3: "out_of_memory"}


def test_on_a_mixture_of_experts_one_trains_by_itself_and_those_that_came_to_share_are_sent_back(
    tmp_path: Path,
) -> None:
    entry = save_tiny_mixture(tmp_path / "base")
    commands: queue.SimpleQueue[Warm | Train] = queue.SimpleQueue()
    first, *more = (shared(entry, tmp_path, run, steps=2) for run in (1, 2, 3))
    for command in more:
        commands.put(command)
    pipe = LoudPipe()
    TrainerProcess(pipe, Wishes(), commands)._serve(first)
    assert all(isinstance(message, Said) for message in pipe.messages)
    said = [(message.run, message.message) for message in pipe.messages if isinstance(message, Said)]
    assert said[0] == (1, Unshared())
    assert [(run, message) for run, message in said if run > 1] == [(run, Unshared(waits=True)) for run in (2, 3)]
    assert [message.type for run, message in said if run == 1][-1] == "finished"
    assert first.output.is_dir() and not more[0].output.exists()


def test_what_other_base_models_take_is_told_and_is_not_there_for_replicas(tmp_path: Path) -> None:
    others = save_tiny_base(tmp_path / "other", "causal")
    entry = save_tiny_base(tmp_path / "base", "encoder")
    several = TrainingSpec(base_model=entry.name, optimization={"epochs": 2, "seeds": 3})  # type: ignore[arg-type]
    command = shared(entry, tmp_path, 1).model_copy(update={"spec": several, "shared": False, "keep_bytes": 2**30})

    def trained(command: Train, *loaded: BaseModelEntry) -> tuple[Alive, MemoryNeed]:
        pipe = LoudPipe()
        trainer = TrainerProcess(pipe, Wishes(), queue.SimpleQueue())
        for each in loaded:
            trainer._serve(Warm(base_model=each))
        trainer._serve(command)
        said = [message.message for message in pipe.messages if isinstance(message, Said)]
        assert said[-1].type == "finished"
        alive = next(message for message in said if isinstance(message, Alive))
        begun = next(message for message in said if isinstance(message, Started))
        assert begun.memory is not None
        return alive, begun.memory

    need = trained(command.model_copy(update={"memory_bytes": 2**40}))[1]
    just = command.model_copy(update={"memory_bytes": need.alone})
    alive, memory = trained(just)
    assert (alive.beside_bytes, memory.replicas) == (0, 3)
    alive, memory = trained(just, others)
    assert alive.beside_bytes > 2**16 and memory.replicas < 3
    enough = just.model_copy(update={"memory_bytes": need.alone + alive.beside_bytes})
    assert trained(enough, others)[1].replicas == 3


PEAKS = """
from worker.run_reporter import begin_peak, peak_memory
begin_peak()
print(peak_memory(None))
block = bytearray(b"x" * 2**26)
del block
print(peak_memory(None))
begin_peak()
print(peak_memory(None))
"""


def test_the_peak_of_memory_is_that_since_it_was_begun() -> None:
    # in a process of its own, from which nothing else is taken meanwhile
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, with_block, after = map(int, done.stdout.split())
    assert with_block > before + 2**25
    assert after < before + 2**25


def test_failures_are_named() -> None:
    data = describe_failure(DataError("a.jsonl", (Problem(7, "text", "It is empty.", "Write one."),)), 1)
    assert (data.code, data.users_fault, data.run) == ("invalid_training_file", True, 1)
    assert "line 7" in data.message and "Write one." in data.message
    assert describe_failure(MemoryError(), 1).code == "out_of_memory"
    unknown = describe_failure(RuntimeError("oh"), None)
    assert (unknown.code, unknown.users_fault, unknown.run) == ("internal_error", False, None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_a_quota_and_a_file_size_limit_are_one_failure_and_no_fault_of_the_user(number: int) -> None:
    full = describe_failure(OSError(number, os.strerror(number)), 1)
    assert (full.code, full.users_fault) == (DiskFullError.code, False)


def test_the_gpus_own_memory_error_counts_as_one() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert describe_failure(OutOfMemoryError("CUDA out of memory"), 1).code == "out_of_memory"


def test_prints_of_libraries_stay_out_of_the_messages() -> None:
    script = (
        "import os\n"
        "from worker.messages import Ready\n"
        "from sgg_core.pipe import MessagePipe\n"
        "pipe = MessagePipe()\n"
        "print('a library says hello', flush=True)\n"
        "os.system('echo so does a program')\n"
        "pipe.send(Ready(base_models=('x' * 200_000,)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = io.StringIO(done.stdout).read().splitlines()
    assert len(lines) == 1 and len(json.loads(lines[0])["base_models"][0]) == 200_000
    assert "a library says hello" in done.stderr and "so does a program" in done.stderr


def test_the_process_ends_when_its_parent_is_another_than_the_one_that_started_it() -> None:
    command = [sys.executable, "-m", "worker.trainer_process", str(os.getpid() + 1)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.wait(60) == 0  # its stdin is still open
        finally:
            process.kill()
        assert process.stdout is not None and process.stdout.read() == b""


def test_without_torch_there_is_no_gpu_to_tell_of() -> None:
    script = (
        "import sys; from worker.run_reporter import gpu_memory; assert gpu_memory() is None, 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", f"{script}; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.gpu
def test_the_memory_of_the_gpu_is_told_once_it_is_used() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    kept = torch.ones(2**20, device="cuda")
    memory = gpu_memory()
    assert memory is not None and kept.numel() * 4 <= memory.allocated <= memory.reserved <= memory.used <= memory.total
    begin_peak()
    torch.ones(2**22, device="cuda")
    assert peak_memory(gpu_memory()) >= memory.allocated + 2**24
