"""The fork server, `python -m worker.fork_server_process`: has imported torch and its company, and forks trainers.

Importing takes many seconds, a fork milliseconds: a trainer that died is replaced at once. The server computes nothing
and starts no thread, so its forks are as good as new processes. Requests come over a socket, because three pipes come
with them; messages leave on the original stdout, one JSON object a line. It ends when its parent does.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

from sgg_core.pipe import MessagePipe, die_with_parent, name_process
from worker.child import TRAINER_COMMAND
from worker.fork_messages import REQUEST, STREAMS, Born, Ended
from worker.messages import Ready
from worker.trainer_process import import_training, run_trainer


class Forker:
    """Forks a trainer for each request that brings pipes; reaps one when a request without pipes names it."""

    def __init__(self, requests: socket.socket, pipe: MessagePipe) -> None:
        self._requests = requests
        self._pipe = pipe
        self._pids: dict[int, int] = {}  # of trainers, by the numbers that their requests gave them
        self._told: set[int] = set()  # who has ended, as the parent knows
        self._wake, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._own = (self._wake, wakes)

    def serve_all(self) -> None:
        """Serve until the other end of the socket is closed."""
        sources: list[socket.socket | int] = [self._requests, self._wake]
        while True:
            ready = select.select(sources, [], [])[0]
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._tell_of_ends()
            if self._requests in ready:
                request, streams, _, _ = socket.recv_fds(self._requests, REQUEST.size, STREAMS)
                if not request:
                    return
                number = REQUEST.unpack(request)[0]
                if streams:
                    self._fork(number, streams)
                else:
                    os.waitpid(self._pids.pop(number), 0)
                    self._told.discard(number)

    def _fork(self, number: int, streams: list[int]) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_trainer(server, streams)
        os.setpgid(pid, pid)  # here, too: whoever hears of the process may kill its group
        for stream in streams:
            os.close(stream)
        self._pids[number] = pid
        self._pipe.send(Born(number=number, pid=pid))

    def _become_trainer(self, server: int, streams: list[int]) -> NoReturn:
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for ours, stream in enumerate(streams):
                os.dup2(stream, ours)
            for other in (*streams, *self._own):
                os.close(other)
            self._requests.close()
            self._pipe.close()
            import torch

            if torch.cuda._is_in_bad_fork():  # an import has touched CUDA after all: then only a new process can use it
                os.execv(sys.executable, [*TRAINER_COMMAND, str(server)])  # nosec B606 # our own program
            run_trainer(server)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        os._exit(1)

    def _tell_of_ends(self) -> None:
        """Say who has ended. They stay zombies until their parent's parent is done with their ids."""
        for number in self._pids.keys() - self._told:
            end = os.waitid(os.P_PID, self._pids[number], os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is not None:
                self._told.add(number)
                exit_code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
                self._pipe.send(Ended(number=number, exit_code=exit_code))


def refuse(requests: socket.socket, words: str) -> None:
    """Tell the first who asks for a trainer why there is none."""
    streams: list[int] = []
    while not streams:
        request, streams, _, _ = socket.recv_fds(requests, REQUEST.size, STREAMS)
        if not request:
            return
    os.write(streams[2], words.encode())


def main() -> None:
    """Run the server. The arguments: the socket's file descriptor, the parent's process id."""
    die_with_parent(int(sys.argv[2]))
    name_process("sgg-forkserver")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = MessagePipe()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        try:
            import_training()
        except BaseException:
            refuse(requests, traceback.format_exc())
            sys.exit(1)
        gc.collect()
        gc.freeze()  # what was imported stays in memory that all share
        pipe.send(Ready())
        Forker(requests, pipe).serve_all()


if __name__ == "__main__":
    main()
