"""Where trainers come from: a fork server, which this process starts when it first needs one and keeps."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, ClassVar

from worker.child import MODULE, TRAINER_COMMAND, Child, ChildProcess, child_environment, spawn
from worker.fork_messages import REQUEST, Born, Ended, ForkMessage, fork_message_adapter
from worker.messages import Ready

FORK_SERVER_COMMAND = (*MODULE, "worker.fork_server_process")


class ForkServer(Child[ForkMessage]):
    """A running fork server, for trainers in an environment like its own."""

    name: ClassVar[str] = "forkserver"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._numbers = itertools.count(1)
        self._forked: dict[int, Forked] = {}  # those not closed yet
        self._imported = False
        self._ended = False
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair()
        with theirs:
            command = [*FORK_SERVER_COMMAND, str(theirs.fileno())]
            super().__init__(spawn(command, keep=(theirs.fileno(),)), fork_message_adapter)

    def fork(self) -> Forked:
        """A trainer, which will be there as soon as the server has imported what it needs. Returns at once."""
        read_commands, commands = os.pipe()
        messages, write_messages = os.pipe()
        words, write_words = os.pipe()
        theirs = (read_commands, write_messages, write_words)
        streams = (os.fdopen(commands, "wb"), os.fdopen(messages, "rb"), os.fdopen(words, "rb"))
        with self._lock:
            number = next(self._numbers)
            forked = self._forked[number] = Forked(self, number, *streams)
            with suppress(BrokenPipeError):
                socket.send_fds(self._requests, [REQUEST.pack(number)], theirs)
            if self._ended:
                forked.end(self._process.wait())
        for stream in theirs:
            os.close(stream)
        return forked

    def forget(self, number: int) -> None:
        """Let a trainer that has ended go: its process id may be given to others."""
        with self._lock:
            if self._forked.pop(number).born:
                with suppress(OSError):  # the server may be gone, and its zombies with it
                    self._requests.send(REQUEST.pack(number))

    def kill_unless_imported(self) -> bool:
        """End the server while no trainer can have come from it yet. Gives whether it was so."""
        with self._lock:
            if not self._imported:
                self.kill()
            return not self._imported

    def close(self) -> None:
        """Kill the server and whoever came from it."""
        super().close()
        self._requests.close()

    def _deliver(self, message: ForkMessage | None) -> None:
        if message is None:  # the trainers ended with their server
            exit_code = self._process.wait()
            with self._lock:
                self._ended = True
                for forked in self._forked.values():
                    forked.end(exit_code)
        elif isinstance(message, Ready):
            self._imported = True
        else:
            with self._lock:
                forked_now = self._forked.get(message.number)
            if isinstance(message, Born) and forked_now:
                forked_now.begin(message.pid)
            elif isinstance(message, Ended) and forked_now:
                forked_now.end(message.exit_code)


class Forked:
    """A process that a fork server makes, as `Child` wants one."""

    def __init__(self, server: ForkServer, number: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._server = server
        self._number = number
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._known = threading.Event()  # whether it has begun, or never will
        self._over = threading.Event()

    @property
    def born(self) -> bool:
        """Whether it has begun."""
        return self._pid is not None

    @property
    def pid(self) -> int:
        """Its process id, for which this waits; the server's if that ended before it had made this process."""
        self._known.wait()
        return self._server.pid if self._pid is None else self._pid

    def begin(self, pid: int) -> None:
        """The process is there."""
        self._pid = pid
        self._known.set()

    def end(self, exit_code: int) -> None:
        """The process is no more, or will never be."""
        if self._exit_code is None:
            self._exit_code = exit_code
        self._known.set()
        self._over.set()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self._exit_code

    def wait(self) -> int:
        """Wait for its end; gives its exit code."""
        self._over.wait()
        assert self._exit_code is not None
        return self._exit_code

    def kill_group(self) -> None:
        """End it and its children at once. Harmless when they are dead."""
        if not self.born and self._server.kill_unless_imported():
            return
        self._known.wait()
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Free its pipes and its process id, after its end."""
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):
                stream.close()
        self._server.forget(self._number)


_lock = threading.Lock()
# Linux kills a child when the thread that started it ends, so one thread that never ends starts them all
_starter = ThreadPoolExecutor(1, "fork-server-starter")
_server: ForkServer | None = None


def start_trainer() -> ChildProcess:
    """A new trainer process: a fork where forks are safe, else one that imports everything by itself.

    To be called from a thread that outlives the trainer.
    """
    if sys.platform != "linux":
        return spawn(TRAINER_COMMAND)
    global _server
    with _lock:
        environment = child_environment(os.environ)
        if _server is None or not _server.alive or _server.environment != environment:
            close_fork_server()
            _server = _starter.submit(ForkServer, environment).result()
        return _server.fork()


def close_fork_server() -> None:
    """End the fork server of this process, if it has one."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


atexit.register(close_fork_server)
