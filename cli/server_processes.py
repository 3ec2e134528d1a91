"""Several processes that answer on one socket: Python runs one thread of a process at a time, a machine has more."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from cli.errors import CliError
from sgg_core.imports import without_collector

COMMAND = (sys.executable, "-P", "-m", "cli.server_processes")
READY = "ready"
LOOK_SECONDS = 0.2
RESTART_SECONDS = 1.0
STOP_SECONDS = 15.0


class ServerProcesses:
    """Starts the processes, replaces one that dies, and ends all of them."""

    def __init__(self, listener: socket.socket, count: int) -> None:
        self._listener = listener
        self._count = count
        self._running: list[subprocess.Popen[str]] = []

    def run(self, on_started: Callable[[], None], stopped: Callable[[], bool]) -> None:
        """Answer until `stopped()`. Raises CliError if a process does not come up at the first start."""
        from sgg_store.logs import get_logger

        log = get_logger(__name__)
        try:
            self._running = [self._start() for _ in range(self._count)]
            if not all(_is_ready(process) for process in self._running):
                raise CliError("The server did not start.", "Its log says why.")
            on_started()
            while not stopped():
                for place, process in enumerate(self._running):
                    if process.poll() is not None and not stopped():
                        log.error("a process of the server ended; it is started again", code=process.returncode)
                        time.sleep(RESTART_SECONDS)
                        self._running[place] = self._start()
                time.sleep(LOOK_SECONDS)
        finally:
            self._end()

    def _start(self) -> subprocess.Popen[str]:
        number = self._listener.fileno()
        return subprocess.Popen(
            [*COMMAND, str(number)],
            pass_fds=[number],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def _end(self) -> None:
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _is_ready(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline().strip() == READY


def serve_one(listener: socket.socket) -> None:
    """Be one of the processes, until told to stop or until the one that started this one is gone."""
    with without_collector():
        import uvicorn

        from api.app import create_app
        from api.connections import Connection
        from api.server import Server, spare_the_collector
        from api.settings import ApiSettings
        from sgg_store import logs, tracing
        from sgg_store.queue import doorbell

    logs.configure("server")
    tracing.configure("server")
    settings = ApiSettings()
    app = create_app(settings, ring=doorbell(settings))
    configuration = uvicorn.Config(app, http=Connection, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = Server(configuration, on_started=lambda: print(READY, flush=True))

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    spare_the_collector()
    server.run(sockets=[listener])


if __name__ == "__main__":
    serve_one(socket.socket(fileno=int(sys.argv[1])))
