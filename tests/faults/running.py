"""Processes of a deployment, and trainers below them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from worker import fork_server
from worker.testing import eventually

ROOT = Path(__file__).parents[2]


class Running:
    """One process of a deployment, and the trainer below it if it has one."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdout=subprocess.PIPE, stderr=stream, text=True, cwd=ROOT
            )
        self._log = log
        self._seen: dict[int, psutil.Process] = {}

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by a signal)."""
        return self.process.poll() is None

    def announced(self) -> None:
        """Wait for the line with which the process says that it is up."""
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline() or "null") is not None, self._log.read_text()

    def trainers(self) -> list[psutil.Process]:
        """The trainer processes that this process has started and that live, also after its own end."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if is_trainer(child) and not is_trainer(child.parent()):
                    self._seen[child.pid] = child
        return [child for child in self._seen.values() if lives(child)]

    def trainer(self) -> psutil.Process:
        """The one trainer; waits for it."""
        return eventually(lambda: next(iter(self.trainers()), None))

    def kill(self) -> None:
        """End the process as the kernel or a power cut would."""
        self.trainers()
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float = 60.0) -> int:
        """Ask the process to end; gives its exit code. Raises TimeoutExpired."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def freeze(self) -> None:
        """Stop the process and its trainer where they are."""
        self.process.send_signal(signal.SIGSTOP)
        for trainer in self.trainers():
            trainer.suspend()

    def thaw(self) -> None:
        """Let a frozen process and its trainer go on."""
        for trainer in self.trainers():
            with suppress(psutil.NoSuchProcess):
                trainer.resume()
        self.process.send_signal(signal.SIGCONT)


def is_trainer(process: psutil.Process | None) -> bool:
    """Whether a process is somebody's trainer, or a fork of one."""
    return is_named("sgg-trainer", process)


def is_fork_server(process: psutil.Process | None) -> bool:
    """Whether a process is one that makes trainers."""
    return is_named("sgg-forkserver", process)


def is_named(name: str, process: psutil.Process | None) -> bool:
    """Whether there is a process and it calls itself so."""
    try:
        return process is not None and process.name() == name
    except psutil.Error:
        return False


def lives(process: psutil.Process) -> bool:
    """Whether a process is there and more than the remains of one."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def trainers_made_by(program: str) -> Iterator[None]:
    """Within the block, new trainers of this process are forks of one that runs this program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_server", None)  # the usual one stays for later
        patch.setattr(fork_server, "FORK_SERVER_COMMAND", (sys.executable, "-c", program))
        yield
        fork_server.close_fork_server()
