"""The server of fresh processes that a trainer process forks from itself."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from sgg_core.reporting import Finished
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import save_tiny_base
from worker.child import TrainerChild
from worker.messages import Failed, InputFile, Ready, Train
from worker.testing import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@contextmanager
def running() -> Iterator[TrainerChild]:
    child = TrainerChild()
    try:
        while not isinstance(child.receive(300), Ready):
            pass
        yield child
    finally:
        child.close()


@pytest.fixture(scope="module")
def trainer() -> Iterator[TrainerChild]:
    with running() as child:
        yield child


def server_of(trainer: TrainerChild) -> psutil.Process:
    (server,) = psutil.Process(trainer.pid).children()
    return server


def opened(pid: int) -> dict[int, str]:
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[int(link.name)] = str(link.readlink())
    return found


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_but_the_imports_is_done_before_the_fork() -> None:
    script = (
        "import os, torch\n"
        "from worker.trainer_process import import_training\n"
        "def asked(*_): raise SystemExit('CUDA was asked for')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = torch.cuda._lazy_init = asked\n"
        "import_training()\n"
        "assert len(os.listdir('/proc/self/task')) == 1, 'threads were started'\n"
        "torch.ones(1000, 1000) @ torch.ones(1000, 1000)\n"
        "assert len(os.listdir('/proc/self/task')) > 1, 'threads cannot be seen'\n"
    )
    threads = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", script], env=os.environ | threads, check=True)


def test_the_server_holds_no_pipe_of_the_trainers_commands_and_messages(trainer: TrainerChild) -> None:
    server = server_of(trainer).pid
    theirs = eventually(lambda: opened(server) if set(opened(server)) == {0, 1, 2, 3} else None)
    streams = opened(trainer.pid)
    assert theirs[0] == theirs[3] and theirs[0].startswith("socket:")
    assert theirs[1] == theirs[2] == streams[2]
    assert len({name for name in streams.values() if name.startswith("pipe:")} - set(theirs.values())) == 2


def test_one_server_proves_job_after_job_and_is_replaced_when_it_died(trainer: TrainerChild, tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"text": "number {n}", "label": "{("even", "odd")[n % 2]}"}}\n' for n in range(8)))

    def proves(run: int) -> bool:
        output = tmp_path / f"output-{run}"
        command = Train(
            run=run,
            spec=TrainingSpec.model_validate({"base_model": base.name, "optimization": {"max_steps": 1}}),
            base_model=base,
            training=InputFile(path=data, filename=data.name),
            output=output,
            checkpoints=tmp_path / f"checkpoints-{run}",
        )
        trainer.send(command)
        while not isinstance(message := trainer.receive(300), Finished):
            assert not isinstance(message, Failed), message
        return bool(json.loads((output / "verification.json").read_text())["passed"])

    server = server_of(trainer)
    assert proves(1) and proves(2)
    assert server_of(trainer) == server
    server.kill()
    eventually(lambda: gone(server))
    assert proves(3)
    assert server_of(trainer) != server


def test_the_server_leaves_ctrl_c_to_others_and_dies_with_the_trainer() -> None:
    with running() as trainer:
        server = server_of(trainer)
        (ignored,) = (line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "SigIgn" in line)
        assert int(ignored.split()[1], 16) >> (signal.SIGINT - 1) & 1
        eventually(lambda: set(opened(server.pid)) == {0, 1, 2, 3})
        server.suspend()  # so that it cannot notice the end of its input
        os.kill(trainer.pid, signal.SIGKILL)
        assert eventually(lambda: gone(server))
