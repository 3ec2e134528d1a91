"""Whether memory suffices for one more job beside those that a worker trains together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sgg_core.reporting import MemoryNeed

SHARE = 0.8
"""Of all memory there is: forecasts err, allocators keep more than is asked for, and others need some, too."""
LEAST_FACTOR, LARGEST_FACTOR = 0.5, 4.0
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Capacity:
    """The memory of the trainer of one worker, and how much of what was foretold packs really take.

    `budget` is in bytes; None is a share of the machine's memory, or of the GPU's once the trainer has told of it.
    """

    def __init__(self, budget: int | None) -> None:
        self._fixed = budget
        self._budget = int(SHARE * machine_memory()) if budget is None else budget
        self._learned: dict[str, float] = {}  # by base model: measured in units of what was foretold
        self._foretold = 0  # the most of this pack so far
        self._measured = 0
        self._beside = 0  # bytes of other base models that are loaded meanwhile

    def fits(self, base_model: str, inside: Sequence[MemoryNeed | None], need: MemoryNeed | None) -> bool:
        """Whether a job fits in beside those that are `inside`. One of which nothing is known does."""
        return need is None or self._beside + foretold([*inside, need]) <= self.room(base_model)

    def room(self, base_model: str) -> int:
        """How many bytes may be foretold of a pack and the base models beside it, to be within the budget really."""
        return int(self._budget / self._factor(base_model))

    def expect(self, inside: Sequence[MemoryNeed | None]) -> None:
        """Take note of what the trainer counted of those that are in now."""
        self._foretold = max(self._foretold, foretold(inside))

    def measure(self, peak: int, gpu_total: int | None, beside: int = 0) -> None:
        """Take note of the most that the trainer has taken so far, and of how much memory its GPU has, if it is on one.

        Base models that the pack does not train on have taken `beside` of it.
        """
        self._measured, self._beside = max(self._measured, peak), beside
        if self._fixed is None and gpu_total is not None:
            self._budget = int(SHARE * gpu_total)

    def end(self, base_model: str) -> None:
        """The pack has ended: what it took corrects the forecasts for the next ones."""
        if self._foretold and self._measured:
            self._learned[base_model] = self._seen()
        self._foretold = self._measured = self._beside = 0

    def _factor(self, base_model: str) -> float:
        """A pack that goes on may have its peak before it, so it can only raise what earlier ones showed."""
        learned = self._learned.get(base_model, 1.0)
        return max(learned, self._seen()) if self._foretold else learned

    def _seen(self) -> float:
        factor = self._measured / (self._foretold + self._beside)
        return min(LARGEST_FACTOR, max(LEAST_FACTOR, factor))


def foretold(needs: Iterable[MemoryNeed | None]) -> int:
    """Bytes of jobs on one base model together: what they share once, and what each adds. Unknown ones add nothing."""
    known = [need for need in needs if need is not None]
    return max((need.shared for need in known), default=0) + sum(need.own for need in known)


def machine_memory() -> int:
    """Bytes that this machine has, or that its container may take."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such controller, or "max"
            bounds.append(int(limit.read_text()))
    return min(bounds)
