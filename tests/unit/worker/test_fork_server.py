"""Trainers come from a fork server: at once, one group each, and they end with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from worker import fork_server
from worker.child import TrainerChild
from worker.errors import TrainerDiedError
from worker.fork_server import close_fork_server, start_trainer
from worker.messages import Ready
from worker.testing import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux alone")


@pytest.fixture
def _no_server_before_and_after() -> Iterator[None]:
    close_fork_server()
    yield
    close_fork_server()


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def idle_trainer() -> TrainerChild:
    child = TrainerChild(start_trainer())
    assert isinstance(child.receive(120), Ready)
    return child


def test_a_trainer_that_was_killed_is_replaced_without_importing_anything_again() -> None:
    first = idle_trainer()
    server = psutil.Process(first.pid).ppid()
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(TrainerDiedError) as death:
        while True:
            first.receive(10)
    assert death.value.exit_code == -signal.SIGKILL
    assert psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE  # its id is nobody else's while it is spoken of
    second = idle_trainer()
    assert psutil.Process(second.pid).ppid() == server  # which has imported it all
    dead = first.pid
    first.close()
    assert eventually(lambda: not psutil.pid_exists(dead))
    assert psutil.Process(second.pid).name() == "sgg-trainer"
    second.close()


def test_to_kill_one_trainer_is_to_kill_what_it_started_and_nobody_else() -> None:
    one, other = idle_trainer(), idle_trainer()
    forks = eventually(lambda: psutil.Process(one.pid).children())  # it proves adapters
    one.kill()
    assert not lives(one.pid) and eventually(lambda: not any(lives(fork.pid) for fork in forks))
    assert other.alive and lives(other.pid)
    one.close()
    other.close()


def test_trainers_end_with_their_server_and_the_next_gets_a_new_one() -> None:
    child = idle_trainer()
    server = psutil.Process(child.pid).parent()
    assert server is not None and server.name() == "sgg-forkserver"
    server.kill()
    with pytest.raises(TrainerDiedError) as death:
        while True:
            child.receive(10)
    assert death.value.exit_code == -signal.SIGKILL
    assert eventually(lambda: not lives(child.pid))
    child.close()
    following = idle_trainer()
    assert psutil.Process(following.pid).ppid() != server.pid
    following.close()


def test_another_environment_gets_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    idle_trainer().close()
    before = fork_server._server
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    child = TrainerChild(start_trainer())
    assert fork_server._server is not before
    child.kill()
    child.close()


@pytest.mark.usefixtures("_no_server_before_and_after")
def test_a_trainer_that_is_not_there_yet_can_be_given_up_at_once() -> None:
    began = time.monotonic()
    child = TrainerChild(start_trainer())
    child.kill()
    assert not child.alive and time.monotonic() - began < 3.0
    child.close()


@pytest.mark.usefixtures("_no_server_before_and_after")
def test_a_server_that_cannot_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peft.py").write_text("raise ImportError('this error is planted')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = TrainerChild(start_trainer())
    with pytest.raises(TrainerDiedError, match="this error is planted") as death:
        child.receive(120)
    assert death.value.exit_code == 1
    child.close()


def test_a_trainer_dies_with_its_worker_even_while_it_is_stopped() -> None:
    script = (
        "import os, signal, time\n"
        "from worker.child import TrainerChild\n"
        "from worker.fork_server import start_trainer\n"
        "child = TrainerChild(start_trainer())\n"
        "assert child.receive(120)\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        trainer = int(worker.stdout.readline())
        assert lives(trainer)
        worker.kill()
        assert eventually(lambda: not lives(trainer))
