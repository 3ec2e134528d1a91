"""Keeps one trainer child ready: starts it, warms it, hands it trainings, replaces it when it died."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sgg_core.catalogue import BaseModelEntry
from sgg_core.reporting import AnyMessage, Control
from sgg_store.logs import get_logger
from worker.child import TRAINER_COMMAND, TrainerChild
from worker.errors import TrainingFailedError
from worker.instruments import measure_gpu
from worker.messages import Alive, Failed, Ready, Steer, Train, Warm

_log = get_logger(__name__)


class TrainerRun:
    """One training in the child, from the command to its last message."""

    def __init__(self, child: TrainerChild, number: int) -> None:
        self._child = child
        self._number = number

    @property
    def pid(self) -> int:
        """Process id of the trainer."""
        return self._child.pid

    def receive(self, timeout: float) -> AnyMessage | Alive | None:
        """The training's next message, or None if there is none within `timeout` seconds.

        Raises TrainingFailedError when it ended in an error, TrainerDiedError when the process did.
        """
        message = self._child.receive(timeout)
        if isinstance(message, Ready):
            return Alive()
        if isinstance(message, Failed):
            if message.run != self._number:
                _log.warning("the trainer could not warm up", error=message.message)
                return Alive()
            raise TrainingFailedError(message.code, message.message, message.users_fault)
        return message

    def steer(self, action: Control) -> None:
        """Let the training end before its next step, with a checkpoint; or go on after all, if it has not ended yet."""
        self._child.send(Steer(run=self._number, action=action))

    def kill(self) -> None:
        """End the trainer process at once. `receive` raises TrainerDiedError from then on."""
        self._child.kill()


class Supervisor:
    """One slot for training: at most one child, at most one training at a time."""

    def __init__(self, command: Sequence[str] = TRAINER_COMMAND) -> None:
        self._command = command
        # Linux kills the child when the *thread* that started it ends, so one thread starts them all
        self._starter = ThreadPoolExecutor(1, "trainer-starter")
        self._lock = threading.Lock()
        self._child: TrainerChild | None = None
        self._base_model: BaseModelEntry | None = None
        self._runs = 0
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return self._child.pid if self._child else None

    def start(self, base_model: BaseModelEntry | None = None) -> None:
        """Start the child ahead of the first job, and let it load `base_model`. Returns at once."""
        self._base_model = base_model
        self._replace()

    @contextmanager
    def training(self, command: Train) -> Iterator[TrainerRun]:
        """Run one training; its `run` number is filled in here. A child that did not end it cleanly is replaced."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._base_model = None  # the training loads its own
                self._replace()
            assert self._child is not None
            self._runs += 1
            child, self._base_model = self._child, command.base_model
            run = TrainerRun(child, self._runs)
            child.send(command.model_copy(update={"run": self._runs}))
            try:
                yield run
            except TrainingFailedError as error:
                if error.code == "out_of_memory":
                    self._replace()  # fragments and leaks of the failed step must not meet the next job
                raise
            except BaseException:
                self._replace()
                raise
            if not child.alive:
                self._replace()

    def stop(self) -> None:
        """End the child and start no other."""
        self._stopped = True
        self._replace()
        self._starter.shutdown()

    def _replace(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
            measure_gpu(None)
        if not self._stopped:
            self._child = self._starter.submit(TrainerChild, self._command).result()
            if self._base_model is not None:
                self._child.send(Warm(base_model=self._base_model))
