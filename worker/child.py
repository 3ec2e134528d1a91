"""A child process: its start, its pipe, its end. It gets an environment without credentials."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from sgg_store.logs import get_logger, parsed_line
from worker.errors import TrainerDiedError
from worker.messages import Failed, Said, TrainerMessage, trainer_message_adapter

Told = TypeVar("Told", bound=BaseModel)

_log = get_logger(__name__)

PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
# not the log's format: a pipe's is JSON, for the parent to read
PASSED_ON_SETTINGS = ("SGG_CACHE_DIR", "SGG_CPU_PRECISION", "SGG_LOG_LEVEL")
PASSED_ON_PREFIXES = (
    *("LC_", "PYTHON", "XDG_"),
    *("CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "PYTORCH_", "TORCH_", "NCCL_", "GLOO_"),
)
PASSED_ON_HUB = ("HF_HOME", "HF_HUB_CACHE")
MEMORY_LAST_WORDS = ("Memory allocation still failed", "std::bad_alloc", "MemoryError")
"""How OpenBLAS, C++ and Python end a process that gets no more memory, where none of our code can catch it."""
KERNEL_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
MODULE = (sys.executable, "-P", "-X", "faulthandler", "-m")
"""Begins the command of a child: nothing is imported from the directory that the worker was started in."""
TRAINER_COMMAND = (*MODULE, "worker.trainer_process")


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the child may see: paths and tuning of libraries, by name; nothing that could be a secret. No network."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in (*PASSED_ON, *PASSED_ON_SETTINGS, *PASSED_ON_HUB) or name.startswith(PASSED_ON_PREFIXES)
    }
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    # a thread of OpenMP that spins while it waits for the others takes the core that one of them may need
    patient = {} if "OMP_WAIT_POLICY" in kept else {"OMP_WAIT_POLICY": "PASSIVE"}
    # for forks: no threads of tokenizers, and whether there is a GPU is asked in the way that leaves CUDA untouched
    return kept | offline | patient | {"TOKENIZERS_PARALLELISM": "false", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class ChildProcess(Protocol):
    """A process that a child is: started by this one, or forked for it."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""

    def poll(self) -> int | None:
        """Its exit code, if it has ended; -N after signal N."""

    def wait(self) -> int:
        """Wait for its end; gives its exit code."""

    def kill_group(self) -> None:
        """End it and its children at once. Harmless when they are dead."""

    def close(self) -> None:
        """Free its pipes, after its end."""


class Spawned:
    """A process of a new program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.pid = process.pid
        self._process = process

    def poll(self) -> int | None:
        """See ChildProcess."""
        return self._process.poll()

    def wait(self) -> int:
        """See ChildProcess."""
        return self._process.wait()

    def kill_group(self) -> None:
        """See ChildProcess."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """See ChildProcess."""
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):
                stream.close()


def spawn(
    command: Sequence[str], environment: Mapping[str, str] | None = None, keep: Collection[int] = ()
) -> ChildProcess:
    """Start a program, which gets this process's id as its last argument, and dies with the thread that starts it.

    `environment` is added to what it may see; it gets the file descriptors in `keep`.
    """
    return Spawned(
        subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(os.environ) | dict(environment or {}),
            pass_fds=tuple(keep),
            start_new_session=True,  # Ctrl-C in a terminal reaches the worker alone, and kill() reaches grandchildren
        )
    )


class Child(Generic[Told]):
    """A running child that sends messages, which `messages` parses."""

    name: ClassVar[str]

    def __init__(self, process: ChildProcess, messages: TypeAdapter[Told]) -> None:
        self._process = process
        self._parsing = messages
        self._oom_kills = oom_kills()
        self._messages: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=20)
        self._log_context: dict[str, str | int] = {}
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
        self._log_context = self._context_after(command)
        with suppress(BrokenPipeError):
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout: float) -> Told | None:
        """The next message, or None if there is none within `timeout` seconds. Raises TrainerDiedError at its end."""
        return self._next_in(self._messages, timeout)

    def kill(self) -> None:
        """End the child and its children at once, stopped ones too, and wait for the end. Harmless when it is dead."""
        self._process.kill_group()
        self._process.wait()

    def close(self) -> None:
        """Kill the child, and free its pipes and threads."""
        self.kill()
        for reader in self._readers:
            reader.join()
        self._process.close()

    def _context_after(self, command: BaseModel) -> dict[str, str | int]:
        """What the child's words without ids of their own are about from now on; of shared trainings nobody knows."""
        if getattr(command, "shared", False):
            return {}
        found: dict[str, str | int] = getattr(command, "log_context", self._log_context)
        return found

    def _next_in(self, box: queue.SimpleQueue[Told | None], timeout: float) -> Told | None:
        try:
            message = box.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            box.put(None)
            raise self._death()
        return message

    def _deliver(self, message: Told | None) -> None:
        """Keep a message for `receive`; None says that it was the last one."""
        self._messages.put(message)

    def _read_messages(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                self._deliver(self._parsing.validate_json(line))
            except ValidationError:
                _log.exception("a child sent what nobody understands", line=repr(line)[:200], **self._pid_field)
                self.kill()
        self._deliver(None)

    def _read_words(self, stream: IO[bytes]) -> None:
        """Write the child's log on into ours; native code and libraries put plain words between its lines."""
        for line in stream:
            level, words, fields = parsed_line(line.decode(errors="replace").rstrip())
            self._last_words += [words, *str(fields.get("exception", "")).splitlines()]
            _log.log(level, words, **{**self._log_context, **self._pid_field, **fields})

    @property
    def _pid_field(self) -> dict[str, int]:
        return {f"{self.name}_pid": self.pid}

    def _death(self) -> TrainerDiedError:
        exit_code = self._process.wait()
        self._readers[1].join(timeout=1.0)
        spoken = [words.strip() for words in self._last_words if words.strip()]
        spoken = [words for words in spoken if "error" in words.lower()] or spoken
        killed_for_memory = exit_code == -signal.SIGKILL and oom_kills() > self._oom_kills
        gave_up = any(known in words for words in spoken for known in MEMORY_LAST_WORDS)
        return TrainerDiedError(exit_code, killed_for_memory or gave_up, spoken[-1][:300] if spoken else "")


class TrainerChild(Child[TrainerMessage]):
    """A running trainer process. What a training says lies in a box of its own, from `open_box` to `close_box`."""

    name = "trainer"

    def __init__(self, process: ChildProcess) -> None:
        self.base_models: tuple[str, ...] = ()  # in its memory when it was last idle
        self._boxes: dict[int, queue.SimpleQueue[TrainerMessage | None]] = {}
        self._ended = False
        self._sorting = threading.Lock()
        super().__init__(process, trainer_message_adapter)

    def open_box(self, run: int) -> None:
        """Keep what training `run` will say. From now on the kernel's kills for want of memory may be the trainer's."""
        self._oom_kills = oom_kills()
        with self._sorting:
            self._boxes[run] = queue.SimpleQueue()
            if self._ended:
                self._boxes[run].put(None)

    def close_box(self, run: int) -> None:
        """Let be forgotten what the training still says."""
        with self._sorting:
            del self._boxes[run]

    def receive_of(self, run: int, timeout: float) -> Said | Failed | None:
        """The next message of a training, as `receive`."""
        message = self._next_in(self._boxes[run], timeout)
        assert isinstance(message, Said | Failed | None)
        return message

    def _deliver(self, message: TrainerMessage | None) -> None:
        with self._sorting:
            if message is None:
                self._ended = True
                for box in self._boxes.values():
                    box.put(None)
            if isinstance(message, Said | Failed) and message.run in self._boxes:
                self._boxes[message.run].put(message)
            elif isinstance(message, Failed) and message.run is None:
                _log.warning("the trainer could not warm up", error=message.message)
            elif not isinstance(message, Said | Failed):
                if message is not None:
                    self.base_models = message.base_models
                if message is not None and not self._messages.empty():
                    self._messages.get()  # the newest one is enough: while jobs come, nobody asks for it
                super()._deliver(message)


def oom_kills() -> int:
    """How many processes the kernel killed for want of memory: in this container where it counts them, else at all.

    0 where the kernel does not tell.
    """
    for source in KERNEL_COUNTS:
        with suppress(OSError):
            for line in source.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
