"""What every child process begins with: a pipe that only its messages go through, and an end with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import BinaryIO

from pydantic import BaseModel

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


class MessagePipe:
    """The stdout the parent gave us, taken away from everyone else: prints of libraries go to stderr instead."""

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def send(self, message: BaseModel) -> None:
        """Write one message as one line."""
        line = message.model_dump_json().encode() + b"\n"
        with self._lock:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view) :]

    def close(self) -> None:
        """Give the parent's stream up, in a process that was forked and has one of its own."""
        self._file.close()


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, even while it is stopped or deep in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def name_process(name: str) -> None:
    """Let Linux's `ps` and `top` show this process by a name, of at most 15 characters."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
