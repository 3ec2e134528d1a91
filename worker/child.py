"""One trainer child: its start, its pipe, its end. The child gets an environment without credentials."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

from worker.errors import TrainerDiedError
from worker.messages import TrainerMessage, trainer_message_adapter

_log = logging.getLogger(__name__)

PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SGG_CACHE_DIR")
PASSED_ON_PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "PYTORCH_", "TORCH_", "XDG_")
PASSED_ON_HUB = ("HF_HOME", "HF_HUB_CACHE")
TRAINER_COMMAND = (sys.executable, "-X", "faulthandler", "-m", "worker.trainer_process")


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the child may see: paths and tuning of libraries, by name; nothing that could be a secret. No network."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in (*PASSED_ON, *PASSED_ON_HUB) or name.startswith(PASSED_ON_PREFIXES)
    }
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class TrainerChild:
    """A running trainer process. Start it from a thread that outlives it: on Linux it dies with that thread."""

    def __init__(self, command: Sequence[str] = TRAINER_COMMAND) -> None:
        self._oom_kills = oom_kills()
        self._process = subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(os.environ),
            start_new_session=True,  # Ctrl-C in a terminal reaches the worker alone, and kill() reaches grandchildren
        )
        self._messages: queue.SimpleQueue[TrainerMessage | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=20)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_words, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped by a signal)."""
        return self._process.poll() is None

    def send(self, command: BaseModel) -> None:
        """Hand over one command. A dead child takes none; `receive` tells of its death."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout: float) -> TrainerMessage | None:
        """The next message, or None if there is none within `timeout` seconds. Raises TrainerDiedError at its end."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)
            raise self._death()
        return message

    def kill(self) -> None:
        """End the child and its children at once, stopped ones too, and wait for the end. Harmless when it is dead."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Kill the child, and free its pipes and threads."""
        self.kill()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _read_messages(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                self._messages.put(trainer_message_adapter.validate_json(line))
            except ValidationError:
                _log.exception("the trainer %d said what nobody understands: %.200r", self.pid, line)
                self.kill()
        self._messages.put(None)

    def _read_words(self, stream: IO[bytes]) -> None:
        for line in stream:
            words = line.decode(errors="replace").rstrip()
            self._last_words.append(words)
            _log.info("trainer %d: %s", self.pid, words)

    def _death(self) -> TrainerDiedError:
        exit_code = self._process.wait()
        self._readers[1].join(timeout=1.0)
        spoken = [words.strip() for words in self._last_words if words.strip()]
        spoken = [words for words in spoken if "error" in words.lower()] or spoken
        killed_for_memory = exit_code == -signal.SIGKILL and oom_kills() > self._oom_kills
        return TrainerDiedError(exit_code, killed_for_memory, spoken[-1][:300] if spoken else "")


def oom_kills() -> int:
    """How many processes the kernel killed for want of memory: in this container where it counts them, else at all.

    0 where the kernel does not tell.
    """
    for source in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in source.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
