"""Jobs that run in turns, each on a stack of its own, and wait for each other at every pass through the network.

Only one runs at any moment: the coordinator hands the turn to one job after the other, and each goes on until it needs
the network or has ended. When all that are left wait, those that wait for states get them from one forward pass; when
all of them wait for gradients, one backward pass serves them. No job waits for another's next step: a second pass of
one meets the first pass of others. Nor do they wait for a long evaluation: between its passes, theirs are made.

Where memory does not suffice for a pass, it is made for some at a time from then on: those get their gradients, and
free what the graph holds for them, before the others get their states. Where a backward pass fails, its forward pass is
made again for some at a time: no weight changes between the states and the gradients of a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar, cast

import torch
from torch import Tensor

from sgg_core.backbone import LoadedBase
from sgg_core.memory import lacks_memory
from sgg_core.packed.network import Member, PassInput, SharedPass, stacked_network
from sgg_core.packed.seat import Job, Part, Seat

PASS_POSITIONS = {"cpu": 64, "cuda": 4096}  # as many take about as long as what a pass takes besides

Ending = TypeVar("Ending")


def nobody() -> Sequence[Job]:
    """No job joins."""
    return ()


class Pack:
    """The coordinator of jobs on one base model whose adapters are on the layers named by `targets`."""

    def __init__(self, base: LoadedBase, targets: Sequence[str]) -> None:
        self.base = base
        self.network = stacked_network(base, targets)
        self.forwards = 0  # passes through the network so far
        self.most: int | None = None  # positions in the graph at once, since memory did not suffice for twice as many

    def run(self, jobs: Sequence[Job], joining: Callable[[], Sequence[Job]] = nobody) -> list[object]:
        """Let all of them go to their ends: what each returned, or the Exception that it raised.

        Each is called with a base model of its own, on which it puts its adapter. `joining` is asked between passes
        who comes in addition; it is not asked any more when all have ended.
        """
        seats = [Seat(self.base, job) for job in jobs]
        outcomes: list[object] = [None] * len(seats)
        numbers = {seat: number for number, seat in enumerate(seats)}
        live = list(seats)
        ready: Sequence[Seat] = seats
        with torch.random.fork_rng():  # jobs in turns put back each other's state of the generators
            try:
                while live:
                    for seat in ready:
                        seat.go_on()
                    for seat in [seat for seat in live if seat.done and seat in numbers]:
                        outcomes[numbers.pop(seat)] = seat.outcome
                    for seat in [seat for seat in live if seat.done]:
                        seat.base.rendezvous = None
                        self.base.spare.append(seat.base)  # so the next job begins sooner
                    live = [seat for seat in live if not seat.done]
                    came = [guest for seat in ready for guest in self._let_in(seat)]
                    for job in joining() if live else ():
                        came.append(Seat(self.base, job))
                        numbers[came[-1]] = len(outcomes)
                        outcomes.append(None)
                    ready = came + [seat for seat in live if seat.rests_until is not None and seat.rests_until()]
                    live = live + came
                    if not ready:
                        breathing = [seat for seat in live if seat.breathes]
                        waiting = [seat for seat in live if seat.rests_until is None and not seat.breathes]
                        ready = [*(self._pass(waiting) if waiting else ()), *breathing]
            finally:
                for seat in live:
                    seat.close()
        return outcomes

    def run_one(self, job: Callable[[LoadedBase], Ending]) -> Ending:
        """Let a job go to its end, with those that it brings. Returns what it returns, and raises what it raises."""
        (ended,) = self.run([job])
        if isinstance(ended, Exception):
            raise ended
        return cast("Ending", ended)

    def _let_in(self, host: Seat) -> Sequence[Seat]:
        """Those that a job brings, with seats of their own."""
        if not host.brings:
            return ()
        host.guests, host.brings = [Seat(self.base, job) for job in host.brings], ()
        return host.guests

    def _pass(self, seats: Sequence[Seat]) -> Sequence[Seat]:
        """Make the pass that is due, and name those who can go on: nobody where it first has to be made in parts."""
        held = sum(part.held for seat in seats for part in seat.parts)
        asking = self._asking(seats, held)
        ready = asking or [seat for seat in seats if seat.wanted is None]
        try:
            if asking and not self._forward(asking, held):
                return ()
            if not asking:
                self._backward(ready)
                give_up(part for seat in seats for part in seat.parts)  # of those who still ask: the graphs are used up
        except Exception as error:  # whoever waits for the pass has to know
            for seat in ready:
                seat.wanted, seat.answer = None, error
        return ready

    def _asking(self, seats: Sequence[Seat], held: int) -> Sequence[Seat]:
        """Those that get states now: all that ask.

        Once memory has been short, those of them that waited longest, as many as fit beside what graphs hold: the
        others after the next backward pass.
        """
        asking = [seat for seat in seats if seat.wanted is not None]
        if self.most is None:
            return asking
        order = sorted(asking, key=lambda seat: seat.served)
        count = fitting([seat.wanted.ids.shape for seat in order if seat.wanted is not None], self.most - held)
        return order[: count if held else max(1, count)]

    def _forward(self, seats: Sequence[Seat], held: int) -> bool:
        """Answer all that wait for states, unless memory does not suffice: then fewer are to ask at once.

        Raises the error where one alone asks too much.
        """
        asked = [seat.wanted for seat in seats if seat.wanted is not None]
        error = lack(lambda: self._answer(seats, asked))
        if error is None:
            return True
        if len(seats) == 1 and not held:
            raise error
        self.most = (held + size([wanted.ids.shape for wanted in asked])) // 2
        return False

    def _answer(self, seats: Sequence[Seat], asked: Sequence[PassInput]) -> None:
        groups = alike([wanted.ids.shape for wanted in asked], PASS_POSITIONS[self.base.device.type])
        passes = [self._shared([Member(seats[n].base, asked[n]) for n in group]) for group in groups]
        for group, shared in zip(groups, passes, strict=True):  # all passes are made: from here on nothing fails
            first = 0
            for place, number in enumerate(group):
                seat, wanted = seats[number], asked[number]
                count, width = wanted.ids.shape
                leaf = shared.states[first : first + count, :width].detach().requires_grad_()
                seat.wanted, seat.answer, seat.served = None, leaf, self.forwards
                seat.parts.append(Part(seat, wanted, leaf, first, place, shared))
                first += count

    def _shared(self, members: Sequence[Member]) -> SharedPass:
        shared = self.network.forward(members)
        self.forwards += 1
        return shared

    def _backward(self, seats: Sequence[Seat]) -> None:
        """Carry the gradients of all leaves into the adapters.

        What memory does not suffice for is made again, states and gradients, for some jobs at a time. One that alone
        asks too much gets the error.
        """
        parts = [part for seat in seats for part in seat.parts if part.leaf.grad is not None]
        for seat in seats:
            seat.parts = []
        held = sum(part.held for part in parts)
        if lack(lambda: carry([part for part in parts if part.shared is not None])) is None:
            parts = [part for part in parts if part.shared is None]
        else:
            self.most = held // 2
        give_up(parts)
        while parts:
            some = parts[: max(1, fitting([part.wanted.ids.shape for part in parts], self.most or 0))]
            error = lack(lambda some=some: self._carry_again(some))  # type: ignore[misc]
            if error is not None and len(some) > 1:
                self.most = size([part.wanted.ids.shape for part in some]) // 2
                continue
            if error is not None:
                some[0].seat.answer = error
            parts = parts[len(some) :]

    def _carry_again(self, parts: Sequence[Part]) -> None:
        shared = self._shared([Member(part.seat.base, part.wanted) for part in parts])
        firsts = accumulate((len(part.leaf) for part in parts), initial=0)
        carry(
            [
                replace(part, first=first, number=number, shared=shared)
                for number, (part, first) in enumerate(zip(parts, firsts, strict=False))
            ]
        )


def give_up(parts: Iterable[Part]) -> None:
    """Forget these parts' graphs: their passes are made again for their gradients."""
    for part in parts:
        part.shared = None


def carry(parts: Sequence[Part]) -> None:
    """Add to the adapters' `gradient` what the gradients of these leaves lead to, padding and absent jobs as zero.

    Where it raises, nothing was added.
    """
    passes: dict[int, tuple[SharedPass, list[Part]]] = {}
    for part in parts:
        assert part.shared is not None
        passes.setdefault(id(part.shared), (part.shared, []))[1].append(part)
    found = [_carried(shared, own) for shared, own in passes.values()]
    for (shared, own), gradients in zip(passes.values(), found, strict=True):
        for number in dict.fromkeys(part.number for part in own):
            adapter, gradient = shared.adapters.adapters[number], gradients[number]
            adapter.gradient = gradient if adapter.gradient is None else adapter.gradient + gradient


def _carried(shared: SharedPass, parts: Sequence[Part]) -> list[Tensor]:
    """Each member's gradient (P) through one pass."""
    slopes = torch.zeros_like(shared.states)
    for part in parts:
        assert part.leaf.grad is not None
        count, width = part.leaf.shape[:2]
        slopes[part.first : part.first + count, :width] = part.leaf.grad
    return shared.gradients(slopes)


def lack(work: Callable[[], None]) -> Exception | None:
    """Do it. Gives the error if memory did not suffice, without what it has seen, which would keep memory in use."""
    try:
        work()
    except Exception as error:
        if not lacks_memory(error):
            raise
        return error.with_traceback(None)
    return None


def alike(shapes: Sequence[Sequence[int]], positions: int) -> list[list[int]]:
    """Numbers of those of these shapes (B, T) that are to make a pass together.

    One that would bring a pass's padding above `positions` begins another one.
    """
    groups: list[list[int]] = []
    padding = 0
    for number in sorted(range(len(shapes)), key=lambda number: -shapes[number][1]):
        rows, width = shapes[number]
        padding += rows * (shapes[groups[-1][0]][1] - width) if groups else 0
        if not groups or padding > positions:
            groups.append([])
            padding = 0
        groups[-1].append(number)
    return groups


def size(shapes: Sequence[Sequence[int]]) -> int:
    """Positions of rows of these shapes (B, T) as one batch, padded to the longest."""
    return sum(rows for rows, _ in shapes) * max((width for _, width in shapes), default=0)


def fitting(shapes: Sequence[Sequence[int]], room: int) -> int:
    """How many of these shapes, from the first on, are a batch of at most `room` positions."""
    return next((count for count in range(len(shapes)) if size(shapes[: count + 1]) > room), len(shapes))
