"""Keeps one trainer child ready: starts it, warms it, hands it trainings, replaces it when it died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import OutOfMemoryError
from sgg_core.reporting import AnyMessage
from worker.child import ChildProcess, TrainerChild
from worker.errors import TrainingFailedError, UnsharedError
from worker.fork_server import start_trainer
from worker.instruments import measure_gpu
from worker.messages import INTERNAL_ERROR, Alive, Failed, Steer, Train, Unshared, Warm, Wish

SPOILING = (OutOfMemoryError.code, INTERNAL_ERROR)
"""Errors after which a child is replaced: what a failed step left behind (fragments of memory, leaks, a GPU that
refuses everything from then on) must not meet the next job."""


class TrainerRun:
    """One training in the child, from the command to its last message."""

    def __init__(self, supervisor: Supervisor, child: TrainerChild, number: int, base_model: str) -> None:
        self._supervisor = supervisor
        self._base_model = base_model
        self.child = child
        self.number = number
        self.had_company = False  # whether others were trained meanwhile

    @property
    def pid(self) -> int:
        """Process id of the trainer."""
        return self.child.pid

    @property
    def shares_memory(self) -> bool:
        """Whether other trainings or base models were in the trainer: then memory may be short because of them."""
        return self.had_company or any(name != self._base_model for name in self.child.base_models)

    def receive(self, timeout: float) -> AnyMessage | Alive | Unshared | None:
        """The training's next message, or None if there is none within `timeout` seconds.

        Raises TrainingFailedError when it ended in an error, TrainerDiedError when the process did.
        """
        message = self.child.receive_of(self.number, timeout)
        if isinstance(message, Failed):
            raise TrainingFailedError(message.code, message.message, message.users_fault)
        return message.message if message else None

    def steer(self, action: Wish) -> None:
        """See worker.messages.Steer."""
        self.child.send(Steer(run=self.number, action=action))

    def abandon(self) -> None:
        """End it at once: the trainer process is killed. If others train in it, it goes by itself, at its next pass.

        After a kill `receive` raises TrainerDiedError.
        """
        self._supervisor.abandon(self)


class Supervisor:
    """At most one child, for one training at a time, or for several that share their passes."""

    def __init__(self, start_process: Callable[[], ChildProcess] = start_trainer) -> None:
        self._start_process = start_process
        # Linux kills the child when the *thread* that started it ends, so one thread starts them all
        self._starter = ThreadPoolExecutor(1, "trainer-starter")
        self._lock = threading.Lock()
        self._child: TrainerChild | None = None
        self._base_model: BaseModelEntry | None = None
        self._runs: list[TrainerRun] = []  # in the child now
        self._begun = 0
        self._spoilt = False  # the child is not to be used for further work once it is idle
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return self._child.pid if self._child else None

    def start(self, base_model: BaseModelEntry | None = None) -> None:
        """Start the child ahead of the first job, and let it load `base_model`. Returns at once."""
        with self._lock:
            self._base_model = base_model
            self._replace()

    @contextmanager
    def training(self, command: Train) -> Iterator[TrainerRun]:
        """Run one training; its `run` number is filled in here. A child that did not end it cleanly is replaced.

        While one is under way, a further one may only come if both are `shared` and fit (see worker.company).
        """
        run = self._begin(command)
        try:
            yield run
        except (TrainingFailedError, UnsharedError) as error:
            if isinstance(error, TrainingFailedError) and error.code in SPOILING:
                self._spoil(run)
            raise
        except BaseException:
            run.abandon()
            raise
        finally:
            self._end(run)

    def abandon(self, run: TrainerRun) -> None:
        """See TrainerRun.abandon."""
        with self._lock:
            if run.child is not self._child:
                return
            self._spoilt = True
            if [run] == self._runs:
                run.child.kill()
            else:
                run.steer("abandon")

    def stop(self) -> None:
        """End the child and start no other."""
        with self._lock:
            self._stopped = True
            self._replace()
        self._starter.shutdown()

    def _begin(self, command: Train) -> TrainerRun:
        with self._lock:
            if self._child is None or not self._child.alive:
                self._base_model = None  # the training loads its own
                self._replace()
            assert self._child is not None
            self._begun += 1
            self._base_model = command.base_model
            run = TrainerRun(self, self._child, self._begun, command.base_model.name)
            self._runs.append(run)
            if len(self._runs) > 1:
                for each in self._runs:
                    each.had_company = True
            run.child.open_box(run.number)
            run.child.send(command.model_copy(update={"run": run.number}))
            return run

    def _end(self, run: TrainerRun) -> None:
        with self._lock:
            run.child.close_box(run.number)
            if run.child is not self._child:
                return
            self._runs.remove(run)
            if not self._runs and (self._spoilt or not run.child.alive):
                self._replace()

    def _spoil(self, run: TrainerRun) -> None:
        with self._lock:
            if run.child is self._child:
                self._spoilt = True

    def _replace(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
            measure_gpu(None)
        self._runs, self._spoilt = [], False
        if not self._stopped:
            self._child = TrainerChild(self._starter.submit(self._start_process).result())
            if self._base_model is not None:
                self._child.send(Warm(base_model=self._base_model))
