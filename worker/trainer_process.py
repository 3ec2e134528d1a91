"""The trainer child: keeps torch and base models loaded, trains on command. A fork of worker.fork_server_process.

Commands come on stdin and messages leave on the original stdout, one JSON object a line. Holds no credentials and knows
neither the database nor the queue. Ends at once when its parent does: stdin closes, and Linux sends it a SIGKILL.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from structlog.contextvars import bound_contextvars

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
from sgg_core.imports import without_collector
from sgg_core.pipe import MessagePipe, die_with_parent, name_process
from sgg_core.reporting import Finished, Stopped
from sgg_store import logs
from worker.messages import (
    INTERNAL_ERROR,
    Failed,
    InputFile,
    Ready,
    Said,
    Steer,
    Train,
    Unshared,
    Warm,
    command_adapter,
)
from worker.run_reporter import AbandonedError, RunReporter, Wishes, begin_peak, nothing
from worker.warm_up import warm_up

if TYPE_CHECKING:
    from sgg_core.backbone import LoadedBase
    from sgg_core.examples import ExampleSet

_log = logs.get_logger("worker.trainer_process")  # which may be `__main__` here


class TrainerProcess:
    """Serves one command after the other, and shared trainings at the same time. Base models stay in memory."""

    def __init__(self, pipe: MessagePipe, wishes: Wishes, commands: queue.SimpleQueue[Warm | Train]) -> None:
        from sgg_core.loaded_bases import LoadedBases

        self._pipe = pipe
        self._wishes = wishes
        self._commands = commands
        self._put_aside: deque[Warm | Train] = deque()  # came while others trained, and could not join them
        self._bases = LoadedBases()

    def serve_all(self) -> None:
        """Serve commands for ever. Until the first one comes, train a toy, so that it finds all code loaded."""
        if self._commands.empty():
            from sgg_core.tiny import tiny_base

            warm_up(tiny_base())
        while True:
            self._serve(self._put_aside.popleft() if self._put_aside else self._commands.get())
            gc.collect()
            self._pipe.send(Ready(base_models=self._bases.names))

    def _serve(self, command: Warm | Train) -> None:
        """Do what the command says, and tell how it failed if it did."""
        try:
            with bound_contextvars(**(command.log_context if isinstance(command, Train) else {})):
                base = self._taken(command)
            begin_peak()
            if isinstance(command, Warm):
                if self._commands.empty():
                    warm_up(base)
            elif not command.shared:
                self._train(command, base)
            elif _shares_passes(command, base):
                self._train_together(command, base)
            else:
                self._train_by_itself(command, base)
        except Exception as error:
            _log.exception("the command failed", command=command.type)
            self._pipe.send(describe_failure(error, command.run if isinstance(command, Train) else None))

    def _taken(self, command: Warm | Train) -> LoadedBase:
        """The command's base model, from memory if it is there."""
        entry, keep_bytes = command.base_model, command.keep_bytes if isinstance(command, Train) else 0
        if self._bases.holds(entry):
            return self._bases.take(entry, keep_bytes)
        begun = time.monotonic()
        base = self._bases.take(entry, keep_bytes)
        _log.info("a base model was loaded", base_model=entry.name, seconds=round(time.monotonic() - begun, 3))
        return base

    def _train_together(self, first: Train, base: LoadedBase) -> None:
        """Train until no shared training is left, the first one and those that come meanwhile."""
        from sgg_core.lora_layers import adapted_names
        from sgg_core.packed.meeting import Pack

        untold: list[Train] = []  # of these nobody has said yet how they ended

        def packed(command: Train) -> Callable[[LoadedBase], None]:
            def job(own: LoadedBase) -> None:
                self._train(command, own)
                untold.remove(command)

            untold.append(command)
            return job

        def joining() -> list[Callable[[LoadedBase], None]]:
            return [packed(command) for command in self._came_to_share(first)]

        jobs = [packed(first)]
        try:
            Pack(base, adapted_names(base, first.spec.lora)).run(jobs, joining)
        except Exception as error:
            _log.exception("trainings that share their passes failed together")
            for command in untold:
                self._pipe.send(describe_failure(error, command.run))

    def _train_by_itself(self, command: Train, base: LoadedBase) -> None:
        """Train what could have been shared on another base model. Those that came to share go back to the queue."""

        def send_back() -> None:
            for late in self._came_to_share(command):
                self._pipe.send(Said(run=late.run, message=Unshared(waits=True)))
                self._wishes.forget(late.run)

        self._pipe.send(Said(run=command.run, message=Unshared()))
        self._train(command, base, send_back)

    def _came_to_share(self, first: Train) -> list[Train]:
        """The shared trainings on the first one's base model that came since; the rest is put aside."""
        came: list[Train] = []
        while not self._commands.empty():
            command = self._commands.get()
            if isinstance(command, Train) and command.shared and command.base_model == first.base_model:
                came.append(command)
            else:
                self._put_aside.append(command)
        return came

    def _train(self, command: Train, base: LoadedBase, meanwhile: Callable[[], None] = nothing) -> None:
        """Train once, and tell how it ended."""
        with bound_contextvars(**command.log_context):
            beside = self._bases.bytes_beside(command.base_model)
            reporter = RunReporter(self._pipe, self._wishes, command.run, meanwhile, beside)
            command = command.model_copy(update={"memory_bytes": max(0, command.memory_bytes - beside)})
            _log.info("training begins", base_model=command.base_model.name, resumes=command.resume_from is not None)
            try:
                reporter.report(train_as_told(command, base, reporter))
            except AbandonedError:
                _log.info("training was given up, as told")
            except Exception as error:
                _log.exception("the training failed")
                self._pipe.send(describe_failure(error, command.run))
            finally:
                self._wishes.forget(command.run)


def _shares_passes(command: Train, base: LoadedBase) -> bool:
    """Whether jobs with this one's adapters can be in one pass."""
    from sgg_core.lora_layers import adapted_names
    from sgg_core.packed.network import keeps_rows

    return keeps_rows(base, adapted_names(base, command.spec.lora))


def train_as_told(command: Train, base: LoadedBase, reporter: RunReporter) -> Finished | Stopped:
    """Read the files that the command names, and train. Raises what these raise."""
    from sgg_core.examples import STORED_LIMITS, parse_examples
    from sgg_core.trainer import train

    def examples(file: InputFile, refusal: type[DataError]) -> ExampleSet:
        return parse_examples(file.path.read_bytes(), file.filename, STORED_LIMITS, refusal)

    return train(
        command.spec,
        base,
        examples(command.training, DataError),
        output=command.output,
        validation=examples(command.validation, ValidationFileError) if command.validation else None,
        sources=[examples(file, SourceFileError) for file in command.sources],
        retention=examples(command.retention, RetentionFileError) if command.retention else None,
        checkpoints=command.checkpoints,
        resume_from=command.resume_from,
        start_from=command.start_from,
        memory_bytes=command.memory_bytes,
        reporter=reporter,
        breath=reporter.breathe,
    )


def describe_failure(error: Exception, run: int | None) -> Failed:
    """Name an error for the parent: the core's own by their code, memory and disk as such, the rest as internal."""
    if not isinstance(error, SggError) and (isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
        error = OutOfMemoryError(  # torch.OutOfMemoryError is known by its name, so that tests of this need no torch
            "There was not enough memory for training.",
            "Lower batch_size or task.max_tokens, or use a smaller base model.",
        )
    elif isinstance(error, OSError) and error.errno in NO_SPACE:
        error = DiskFullError(f"No space is left on the trainer's disk: {error}.", "Free space, then submit again.")
    if isinstance(error, SggError):
        return Failed(run=run, code=error.code, message=str(error), users_fault=error.users_fault)
    return Failed(
        run=run,
        code=INTERNAL_ERROR,
        message=f"Training failed unexpectedly: {type(error).__name__}: {error}. The worker's log holds the traceback.",
        users_fault=False,
    )


def read_commands(wishes: Wishes, commands: queue.SimpleQueue[Warm | Train]) -> None:
    """Sort stdin's commands: wishes take effect at once, work waits its turn. The end of stdin ends the process."""
    for line in sys.stdin.buffer:
        command = command_adapter.validate_json(line)
        if isinstance(command, Steer):
            wishes.steer(command)
        else:
            commands.put(command)
    os._exit(0)


def import_training() -> None:
    """Pay for torch, transformers and peft before a job waits for them, once for this process and all its forks."""
    with without_collector():
        import sgg_core.base_loading
        import sgg_core.proof
        import sgg_core.trainer  # imported for the loading alone

        sgg_core.proof.import_libraries()


def run_trainer(parent: int) -> None:
    """Serve commands until stdin ends, in a process that is new or a fork that has done nothing but import."""
    die_with_parent(parent)
    name_process("sgg-trainer")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("trainer")
    pipe = MessagePipe()
    wishes = Wishes()
    commands: queue.SimpleQueue[Warm | Train] = queue.SimpleQueue()
    try:
        import_training()
        from sgg_core.proof import branch_off

        branch_off()
        threading.Thread(target=read_commands, args=(wishes, commands), daemon=True).start()
        _log.info("the trainer is ready")
        pipe.send(Ready())
        TrainerProcess(pipe, wishes, commands).serve_all()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # the interpreter's own end would wait for the thread that reads stdin


if __name__ == "__main__":
    run_trainer(int(sys.argv[1]))
