"""The predictor child, `python -m worker.predictor_process`: keeps base models and adapters loaded, answers trials.

Commands come on stdin and messages leave on the original stdout, one JSON object a line, as with the trainer; like the
trainer it holds no credentials and ends when its parent does. It gives way to the trainer wherever both want the CPU,
or more memory than there is.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from structlog.contextvars import bound_contextvars

from sgg_core.errors import SggError, SpecError
from sgg_core.imports import without_collector
from sgg_core.pipe import MessagePipe, die_with_parent
from sgg_core.trials import TrialError, TrialFailure
from sgg_store import logs
from worker.messages import Ready
from worker.trial_messages import Ask, Refused, Stop, Told, predictor_command_adapter

_log = logs.get_logger("worker.predictor_process")  # which is `__main__` here

NICENESS = 10  # about a tenth of what the trainer gets while both work
OOM_SCORE = b"1000"  # where memory is short, the kernel ends such a process before all others


class PredictorProcess:
    """Answers one trial after the other."""

    def __init__(self, pipe: MessagePipe, memory: int, device: str) -> None:
        with without_collector():
            import torch

            from sgg_core.shelf import Shelf

        self._pipe = pipe
        self._shelf = Shelf(memory, torch.device(device))
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._stopped = 0  # the newest trial that nobody waits for

    def read_commands(self) -> None:
        """Sort stdin's commands: a `Stop` takes effect at once, a trial waits its turn. Its end ends the process."""
        for line in sys.stdin.buffer:
            command = predictor_command_adapter.validate_json(line)
            if isinstance(command, Stop):
                self._stopped = command.run
            else:
                self._asked.put(command)
        os._exit(0)

    def serve_all(self) -> None:
        """Answer trials for ever."""
        while True:
            command = self._asked.get()
            with bound_contextvars(**command.log_context):
                try:
                    for told in self._answers(command):
                        self._pipe.send(told)
                except Exception as error:
                    self._pipe.send(Refused(run=command.run, failure=_failure(error)))
                self._pipe.send(Ready())

    def _answers(self, command: Ask) -> Iterator[Told]:
        from sgg_core.answering import answer
        from sgg_core.trials import WrittenText

        with self._shelf.taken(command.base_model, command.adapter) as (base, fitted):
            for each in answer(base, fitted, command.trial, command.data):
                if self._stopped >= command.run:
                    return
                over = not isinstance(each, WrittenText) or each.finish_reason is not None
                yield Told(run=command.run, answer=each, over=over)


def _failure(error: Exception) -> TrialFailure:
    if isinstance(error, TrialError):
        return TrialFailure(code=error.code, message=str(error), users_fault=True, param=error.param)
    if isinstance(error, SggError):
        # of a job that is tried out the settings are the caller's, everything else was checked by the API
        return TrialFailure(code=error.code, message=str(error), users_fault=isinstance(error, SpecError))
    _log.exception("a trial met a defect")
    message = f"The model could not answer ({type(error).__name__}); the worker's log says more. Try a shorter text."
    return TrialFailure(code="trial_failed", message=message, users_fault=False)


def main() -> None:
    """Run the child until its stdin ends. The arguments: bytes for base models, device, the parent's process id."""
    die_with_parent(int(sys.argv[3]))
    os.nice(NICENESS)
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_bytes(OOM_SCORE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("predictor")
    pipe = MessagePipe()
    try:
        process = PredictorProcess(pipe, int(sys.argv[1]), sys.argv[2])
        threading.Thread(target=process.read_commands, daemon=True).start()
        pipe.send(Ready())
        process.serve_all()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # the interpreter's own end would wait for the thread that reads stdin


if __name__ == "__main__":
    main()
