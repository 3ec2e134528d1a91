"""The predictor child as its worker sees it: started when it is needed, asked, stopped, given up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from structlog.contextvars import get_contextvars

from sgg_core.catalogue import BaseModelEntry
from sgg_core.trials import Trial
from worker.child import MODULE, Child, spawn
from worker.messages import Ready
from worker.settings import WorkerSettings
from worker.trial_messages import Ask, PredictorMessage, Refused, Stop, Told, predictor_message_adapter

STOP_SECONDS = 10.0
# Threads that wait for each other by spinning would take the trainer's CPU and wait for it at once.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

PREDICTOR_COMMAND = (*MODULE, "worker.predictor_process")


class PredictorChild(Child[PredictorMessage]):
    """A running predictor process."""

    name: ClassVar[str] = "predictor"


class Predictor:
    """At most one child, for one thread, which must live as long as the child is wanted."""

    def __init__(self, settings: WorkerSettings, command: Sequence[str] | None = None) -> None:
        arguments = (str(settings.trial_memory_bytes), settings.trial_device)
        self._command = command or (*PREDICTOR_COMMAND, *arguments)
        self._child: PredictorChild | None = None
        self._runs = 0
        self.loaded: set[str] = set()
        """Names of base models that the child has been asked for."""

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        child = self._child  # other threads ask, too
        return child.pid if child else None

    def ask(self, base_model: BaseModelEntry, adapter: Path | None, trial: Trial, data: Path | None = None) -> None:
        """Begin a trial; `receive` tells how it goes on."""
        if self._child is None or not self._child.alive:
            self.close()
            self._child = PredictorChild(spawn(self._command, ENVIRONMENT), predictor_message_adapter)
        self._runs += 1
        self.loaded.add(base_model.name)
        context = get_contextvars()
        self._child.send(
            Ask(run=self._runs, base_model=base_model, adapter=adapter, data=data, trial=trial, log_context=context)
        )

    def receive(self, timeout: float) -> Told | Refused | None:
        """What the child says of this trial within `timeout` seconds. Raises TrainerDiedError at the child's end."""
        assert self._child is not None
        message = self._child.receive(timeout)
        return message if isinstance(message, Told | Refused) and message.run == self._runs else None

    def stop(self) -> None:
        """Give this trial up. A child that does not obey is ended."""
        if self._child is None or not self._child.alive:
            return
        self._child.send(Stop(run=self._runs))
        deadline = time.monotonic() + STOP_SECONDS
        while self._child.alive and time.monotonic() < deadline:
            if isinstance(self._child.receive(0.1), Ready):
                return
        self.close()

    def close(self) -> None:
        """End the child, which gives all its memory back."""
        if self._child is not None:
            self._child.close()
            self._child = None
            self.loaded.clear()
