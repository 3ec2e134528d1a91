"""Jobs that run in turns, each on a stack of its own, and wait for each other at every pass through the network.

Only one runs at any moment: the coordinator hands the turn to one job after the other, and each goes on until it needs
the network or has ended. When all that are left wait, those that wait for states get them from one forward pass; when
all of them wait for gradients, one backward pass serves them. No job waits for another's next step: a second pass of
one meets the first pass of others. Greenlets and not threads: each thread would have its own pool of OpenMP threads,
and the pools of those that wait would take processor time from the one that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from sgg_core.backbone import LoadedBase
from sgg_core.memory import lacks_memory
from sgg_core.packed.network import Member, PassInput, StackedNetwork, twin

Job = Callable[[LoadedBase], object]
"""Is called with the base model to train on."""


class PackClosedError(BaseException):
    """Ends a job where it waits, since the pack ends; no handler of errors is to catch it."""


@dataclass(frozen=True)
class Leaf:
    """A job's own part of the states (R, T, d) of a shared pass, which have the graph: rows from `first` on."""

    leaf: Tensor
    states: Tensor
    first: int


class Seat:
    """A job's place in the pack: its base model, and the stack on which it waits. A `sgg_core.backbone.Rendezvous`.

    To be made, and used, in the thread of the coordinator.
    """

    def __init__(self, base: LoadedBase, job: Job) -> None:
        self.base = twin(base, rendezvous=self)
        self.job = job
        self.done = False
        self.outcome: object = None  # what the job returned, or the error that it ended with
        self.wanted: PassInput | None = None  # None while it waits for gradients, or runs
        self.answer: Tensor | BaseException | None = None
        self.leaves: list[Leaf] = []  # since the last backward pass
        self._coordinator = getcurrent()
        self._stack = greenlet(self._live)

    def states(self, ids: Tensor, mask: Tensor, positions: Tensor | None, types: Tensor | None) -> Tensor:
        """States (B, T, d) from a pass that other jobs share."""
        self.wanted = PassInput(ids, mask, positions, types)
        answer = self._wait()
        assert answer is not None
        return answer

    def backward(self) -> None:
        """Wait until a shared backward pass has filled `grad` of the adapter's parameters."""
        self._wait()

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
            self.done, self.leaves = True, []

    def _wait(self) -> Tensor | None:
        self._coordinator.switch()
        answer, self.answer = self.answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer


def nobody() -> Sequence[Job]:
    """No job joins."""
    return ()


class Pack:
    """The coordinator of jobs on one base model whose adapters are on the layers named by `targets`."""

    def __init__(self, base: LoadedBase, targets: Sequence[str]) -> None:
        self.base = base
        self.network = StackedNetwork(base, targets)

    def run(self, jobs: Sequence[Job], joining: Callable[[], Sequence[Job]] = nobody) -> list[object]:
        """Let all of them go to their ends: what each returned, or the Exception that it raised.

        Each is called with a base model of its own, on which it puts its adapter. `joining` is asked between passes
        who comes in addition; it is not asked any more when all have ended.
        """
        outcomes: list[object] = []
        live: dict[int, Seat] = {}

        def admit(more: Sequence[Job]) -> list[Seat]:
            admitted = []
            for job in more:
                number = len(outcomes)
                outcomes.append(None)
                live[number] = Seat(self.base, job)
                admitted.append(live[number])
            return admitted

        with torch.random.fork_rng():  # jobs in turns put back each other's state of the generators
            try:
                ready = admit(jobs)
                while ready:
                    for seat in ready:
                        seat.go_on()
                    for number in [number for number, seat in live.items() if seat.done]:
                        outcomes[number] = live.pop(number).outcome
                    ready = admit(joining()) if live else []
                    ready += self._pass([seat for seat in live.values() if seat not in ready])
            finally:
                for seat in live.values():
                    seat.close()
        return outcomes

    def _pass(self, seats: Sequence[Seat]) -> Sequence[Seat]:
        """Make the pass that most wait for, and name those who can go on: all that ask for states, else all."""
        asking = [seat for seat in seats if seat.wanted is not None]
        ready = asking or seats
        try:
            (self._forward if asking else self._backward)(ready)
        except Exception as error:  # memory, as a rule: whoever waits for the pass has to know
            for seat in ready:
                seat.wanted, seat.answer = None, error
        return ready

    def _forward(self, seats: Sequence[Seat]) -> None:
        """Answer all that wait for states, in two passes or more where memory does not suffice for one."""
        try:
            self._forward_at_once(seats)
        except Exception as error:
            if len(seats) == 1 or not lacks_memory(error):
                raise
        else:
            return
        half = len(seats) // 2
        self._forward(seats[:half])
        self._forward(seats[half:])

    def _forward_at_once(self, seats: Sequence[Seat]) -> None:
        members = [Member(seat.base, seat.wanted) for seat in seats if seat.wanted is not None]
        states = self.network.states(members)
        first = 0
        for seat, member in zip(seats, members, strict=True):
            count, width = member.wanted.ids.shape
            leaf = states[first : first + count, :width].detach().requires_grad_()
            seat.wanted, seat.answer = None, leaf
            seat.leaves.append(Leaf(leaf, states, first))
            first += count

    def _backward(self, seats: Sequence[Seat]) -> None:
        """Carry the gradients of all leaves through the passes that they are from, padding and absent jobs as zero."""
        gradients: dict[Tensor, Tensor] = {}
        for seat in seats:
            for part in seat.leaves:
                if part.leaf.grad is not None:
                    whole = gradients.setdefault(part.states, torch.zeros_like(part.states))
                    count, width = part.leaf.shape[:2]
                    whole[part.first : part.first + count, :width] = part.leaf.grad
            seat.leaves = []
        if gradients:
            torch.autograd.backward(list(gradients), list(gradients.values()))
