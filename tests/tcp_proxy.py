"""A TCP proxy between a client and a server of the test, which can lose answers and leave connections half-open."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65536


class TcpProxy:
    """Forwards connections to a port of 127.0.0.1, until it is told to do them harm."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.swallowed_bytes = 0
        """Bytes that were read and not passed on: the proof that harm was done."""
        self.answers_to_lose = 0
        """So many more answers are swallowed, and their connections closed."""
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        with self._lock:
            for end in self._open:  # the silent ones too, which their threads leave open
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def silence(self) -> int:
        """Leave all connections that are open now half-open for good: nothing passes, nobody is told.

        New ones work. Gives how many ends there are.
        """
        with self._lock:
            self._silent = set(self._open)
            return len(self._silent)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if self._swallows(source, len(chunk)):
                    continue
                if is_answer and self._loses(len(chunk)):
                    break
                sink.sendall(chunk)
        with self._lock:
            if source in self._silent:
                return  # the other side never hears of the end
            self._open -= {source, sink}
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _swallows(self, source: socket.socket, size: int) -> bool:
        with self._lock:
            if source not in self._silent:
                return False
            self.swallowed_bytes += size
            return True

    def _loses(self, size: int) -> bool:
        with self._lock:
            if not self.answers_to_lose:
                return False
            self.answers_to_lose -= 1
            self.swallowed_bytes += size
            return True
