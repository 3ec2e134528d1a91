"""A job's place in a pack: where it waits for passes through the network that it shares with others.

Greenlets and not threads: each thread would have its own pool of OpenMP threads,
and the pools of those that wait would take processor time from the one that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from sgg_core.backbone import LoadedBase, Mask
from sgg_core.packed.network import PassInput, SharedPass, twin

Job = Callable[[LoadedBase], object]
"""Is called with the base model to train on."""


class PackClosedError(BaseException):
    """Ends a job where it waits, since the pack ends; no handler of errors is to catch it."""


@dataclass
class Part:
    """A job's part of a shared pass: what it asked, and its own states (B, T, d), which have no graph.

    They are the rows from `first` on of the pass, in which the job has the place `number`; None once its graph was
    given up.
    """

    seat: Seat
    wanted: PassInput
    leaf: Tensor
    first: int
    number: int
    shared: SharedPass | None

    @property
    def held(self) -> int:
        """How many positions, padding included, its share in the graph holds."""
        return 0 if self.shared is None else len(self.leaf) * self.shared.states.shape[1]


class Seat:
    """A job's place in the pack: its base model, and the stack on which it waits. A `sgg_core.backbone.Rendezvous`.

    To be made, and used, in the thread of the coordinator.
    """

    def __init__(self, base: LoadedBase, job: Job) -> None:
        self.base = base.spare.pop() if base.spare else twin(base)
        self.base.rendezvous = self
        self.job = job
        self.done = False
        self.outcome: object = None  # what the job returned, or the error that it ended with
        self.wanted: PassInput | None = None  # None while it waits for gradients, or runs
        self.answer: Tensor | BaseException | None = None
        self.parts: list[Part] = []  # since the last backward pass
        self.served = 0  # when it got states last, counted in forward passes of the pack
        self.rests_until: Callable[[], bool] | None = None
        self.breathes = False  # lets the others make a pass before it goes on
        self.brings: Sequence[Job] = ()  # jobs that are to be let in
        self.guests: list[Seat] = []  # of those that were
        self._coordinator = getcurrent()
        self._stack = greenlet(self._live)

    def states(self, ids: Tensor, mask: Mask, positions: Tensor | None, types: Tensor | None) -> Tensor:
        """States (B, T, d) from a pass that other jobs share."""
        self.wanted = PassInput(ids, mask, positions, types)
        answer = self._wait()
        assert answer is not None
        return answer

    def backward(self) -> None:
        """Wait until a shared backward pass has filled `grad` of the adapter's parameters."""
        self._wait()

    def rest(self, until: Callable[[], bool]) -> None:
        """Wait for something that another job brings about, while the others make their passes."""
        self.rests_until = until
        self._wait()

    def breathe(self) -> None:
        """Let the others make the pass that is due, if they wait for one."""
        self.breathes = True
        self._wait()

    def bring(self, jobs: Sequence[Job]) -> list[object]:
        """Let further jobs into the pack, and wait for their ends: those that `Pack.run` gives."""
        self.brings = jobs
        self.rest(lambda: not self.brings and all(guest.done for guest in self.guests))
        ends, self.guests = [guest.outcome for guest in self.guests], []
        return ends

    def go_on(self) -> None:
        """Give the job its turn, until it waits or has ended. What is no Exception ends the pack, not the job alone."""
        self._stack.switch()
        if isinstance(self.outcome, BaseException) and not isinstance(self.outcome, Exception):
            raise self.outcome

    def close(self) -> None:
        """Make the job end where it waits; one that has not begun never does."""
        while not self.done and self._stack:
            self.wanted, self.answer = None, PackClosedError()
            with suppress(BaseException):
                self.go_on()

    def _live(self) -> None:
        try:
            self.outcome = self.job(self.base)
        except BaseException as error:
            self.outcome = error
        finally:
            self.done, self.parts = True, []

    def _wait(self) -> Tensor | None:
        with torch.enable_grad():  # the mode is the thread's, so everybody's
            self._coordinator.switch()
        self.rests_until, self.breathes = None, False
        answer, self.answer = self.answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer
