"""The trainer child, `python -m worker.trainer_process`: keeps torch and a base model loaded, trains on command.

Commands come on stdin and messages leave on the original stdout, one JSON object a line. Holds no credentials and knows
neither the database nor the queue. Ends at once when its parent does: stdin closes, and Linux sends it a SIGKILL.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel
from structlog.contextvars import bind_contextvars, clear_contextvars

from sgg_core.errors import (
    NO_SPACE,
    DataError,
    DiskFullError,
    OutOfMemoryError,
    RetentionFileError,
    SggError,
    SourceFileError,
    ValidationFileError,
)
from sgg_core.reporting import AnyMessage, Control
from sgg_store import logs
from worker.messages import Alive, Failed, GpuMemory, InputFile, Ready, Steer, Train, Warm, command_adapter

if TYPE_CHECKING:
    from sgg_core.backbone import LoadedBase
    from sgg_core.catalogue import BaseModelEntry
    from sgg_core.examples import ExampleSet

_log = logs.get_logger("worker.trainer_process")  # which is `__main__` here

ALIVE_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
REHEARSAL = b"".join(b'{"text": "number %d", "label": "%s"}\n' % (i, (b"even", b"odd")[i % 2]) for i in range(8))


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


class PipeReporter:
    """The trainer's Reporter: messages go up the pipe, and what the parent wishes comes down as a `Steer`."""

    def __init__(self, pipe: MessagePipe) -> None:
        self._pipe = pipe
        self._run = 0
        self._wishes: dict[int, Control] = {}
        self._last_alive = 0.0

    def begin(self, run: int) -> None:
        """Listen to the wishes for this run only."""
        self._run = run

    def steer(self, command: Steer) -> None:
        """Remember a wish; called from the thread that reads stdin."""
        self._wishes[command.run] = command.action

    def report(self, message: AnyMessage) -> None:
        """Send one message to the parent, which takes a checkpoint's directory over."""
        self._pipe.send(message)

    def control(self) -> Control:
        """Answer what the parent wishes for this run; tells it at most once a second that training moves."""
        now = time.monotonic()
        if now - self._last_alive > ALIVE_SECONDS:
            self._last_alive = now
            self._pipe.send(Alive(gpu_memory=gpu_memory()))
        return self._wishes.get(self._run, "continue")


class TrainerProcess:
    """Serves one command after the other with at most one base model in memory."""

    def __init__(self, pipe: MessagePipe, reporter: PipeReporter, commands: queue.SimpleQueue[Warm | Train]) -> None:
        self._pipe = pipe
        self._reporter = reporter
        self._commands = commands
        self._base: LoadedBase | None = None

    def serve_all(self) -> None:
        """Serve commands for ever. Until the first one comes, train a toy, so that it finds all code loaded."""
        if self._commands.empty():
            from sgg_core.tiny import tiny_base

            rehearse(tiny_base())
        while True:
            self._serve(self._commands.get())

    def _serve(self, command: Warm | Train) -> None:
        """Do what the command says, tell how it failed if it did, then say `Ready`."""
        try:
            if isinstance(command, Warm):
                base = self._load(command.base_model)
                if self._commands.empty():
                    rehearse(base)
            else:
                self._train(command)
        except Exception as error:
            _log.exception("the command failed", command=command.type)
            self._pipe.send(describe_failure(error, command.run if isinstance(command, Train) else None))
        clear_contextvars()
        gc.collect()
        self._pipe.send(Ready(base_model=self._base.entry.name if self._base else None))

    def _load(self, entry: BaseModelEntry) -> LoadedBase:
        from sgg_core.backbone import load_base

        if self._base is None or self._base.entry != entry:
            self._base = None  # frees the old one's memory before the new one needs it
            gc.collect()
            self._base = load_base(entry)
        return self._base

    def _train(self, command: Train) -> None:
        from sgg_core.examples import parse_examples
        from sgg_core.trainer import train

        def examples(file: InputFile, refusal: type[DataError]) -> ExampleSet:
            return parse_examples(file.path.read_bytes(), file.filename, refusal=refusal)

        bind_contextvars(**command.log_context)
        _log.info("training begins", base_model=command.base_model.name, resumes=command.resume_from is not None)
        self._reporter.begin(command.run)
        training = examples(command.training, DataError)
        validation = examples(command.validation, ValidationFileError) if command.validation else None
        sources = [examples(file, SourceFileError) for file in command.sources]
        self._reporter.report(
            train(
                command.spec,
                self._load(command.base_model),
                training,
                output=command.output,
                validation=validation,
                sources=sources,
                retention=examples(command.retention, RetentionFileError) if command.retention else None,
                checkpoints=command.checkpoints,
                resume_from=command.resume_from,
                start_from=command.start_from,
                reporter=self._reporter,
            )
        )


def gpu_memory() -> GpuMemory | None:
    """Ask for the memory of the GPU that training is on. Loads neither torch nor CUDA: without them there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    return GpuMemory(allocated=allocated, reserved=reserved, used=total - free, total=total)


def describe_failure(error: Exception, run: int | None) -> Failed:
    """Name an error for the parent: the core's own by their code, memory and disk as such, the rest as internal."""
    if not isinstance(error, SggError) and (isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
        error = OutOfMemoryError(  # torch.OutOfMemoryError is known by its name, so that tests of this need no torch
            "Memory did not suffice for training.", "Lower batch_size or task.max_tokens, or use a smaller base model."
        )
    elif isinstance(error, OSError) and error.errno in NO_SPACE:
        error = DiskFullError(f"No space is left on the trainer's disk: {error}.", "Free space, then submit again.")
    if isinstance(error, SggError):
        return Failed(run=run, code=error.code, message=str(error), users_fault=error.users_fault)
    return Failed(
        run=run,
        code="internal_error",
        message=f"Training failed unexpectedly: {type(error).__name__}: {error}. The worker's log holds the traceback.",
        users_fault=False,
    )


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, even while it is stopped or deep in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def read_commands(reporter: PipeReporter, commands: queue.SimpleQueue[Warm | Train]) -> None:
    """Sort stdin's commands: wishes take effect at once, work waits its turn. The end of stdin ends the process."""
    for line in sys.stdin.buffer:
        command = command_adapter.validate_json(line)
        if isinstance(command, Steer):
            reporter.steer(command)
        else:
            commands.put(command)
    os._exit(0)


def import_training() -> None:
    """Pay for torch, transformers and peft before a job waits for them."""
    import sgg_core.backbone
    import sgg_core.trainer  # noqa: F401  # imported for the loading alone


class Rehearsal:
    """A Reporter that hears nothing and ends the run after a few steps."""

    def __init__(self, steps: int) -> None:
        self._steps_left = steps

    def report(self, message: AnyMessage) -> None:
        """Forget the message."""

    def control(self) -> Control:
        """Go on for the steps it was made for."""
        self._steps_left -= 1
        return "continue" if self._steps_left >= 0 else "cancel"


def rehearse(base: LoadedBase) -> None:
    """Take two steps with a base model and throw them away: loads lazy modules, compiles kernels, fills pools."""
    from sgg_core.examples import parse_examples
    from sgg_core.spec import OptimizationSpec, TrainingSpec
    from sgg_core.trainer import train

    examples = parse_examples(REHEARSAL, "rehearsal.jsonl")
    spec = TrainingSpec(base_model=base.entry.name, optimization=OptimizationSpec(batch_size=2, max_steps=4))
    train(spec, base, examples, output=Path(os.devnull), reporter=Rehearsal(2))


def main() -> None:
    """Run the child until its stdin ends. The one argument is the parent's process id."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("trainer")
    pipe = MessagePipe()
    reporter = PipeReporter(pipe)
    commands: queue.SimpleQueue[Warm | Train] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(reporter, commands), daemon=True).start()
    try:
        import_training()
        pipe.send(Ready())
        TrainerProcess(pipe, reporter, commands).serve_all()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # the interpreter's own end would wait for the thread that reads stdin


if __name__ == "__main__":
    main()
