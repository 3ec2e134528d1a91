"""What lies before queued jobs, seen from one moment of the queue: their turns, and when they start and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles


@dataclass(frozen=True, slots=True)
class Spread:
    """A time or duration in seconds: in one of ten cases it is below `early`, in one of ten above `late`."""

    early: float
    likely: float
    late: float

    def plus(self, other: Spread) -> Spread:
        """The sum, as if both were early or late together."""
        return Spread(self.early + other.early, self.likely + other.likely, self.late + other.late)

    def times(self, factor: float) -> Spread:
        """So many times as much."""
        return Spread(self.early * factor, self.likely * factor, self.late * factor)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Unix seconds. `start` is None for a running job, both are None where nothing was measured yet."""

    start: Spread | None
    end: Spread | None


NOTHING = Forecast(None, None)
NO_TIME = Spread(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """The queued jobs of one project, and what its turns depend on (see `sgg_store.turns`)."""

    running: int = 0
    last_claimed_at: float = 0.0
    first_created_at: float = 0.0
    """Of its queued jobs."""
    queued: Mapping[int, int] = field(default_factory=dict)
    """How many there are of each priority."""

    @property
    def turn(self) -> tuple[int, float, float]:
        """When two lines have equally many running jobs in the end, the lesser one goes first: it waited longer.

        The one that began with more running jobs was served fewer times since.
        """
        return -self.running, self.last_claimed_at, self.first_created_at


@dataclass(frozen=True, slots=True)
class Outlook:
    """The queue at one moment. Spreads are None where nothing was measured."""

    lines: Mapping[str, Line] = field(default_factory=dict)
    """By project."""
    left: Mapping[str, Spread | None] = field(default_factory=dict)
    """What each running job still needs, by its id."""
    typical: Mapping[str, Spread | None] = field(default_factory=dict)
    """How long jobs on each base model took that is queued or running."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """How many queued jobs each base model has."""
    workers: int = 0
    """How many there are, idle or not."""

    def position(self, project_id: str, priority: int, place: int) -> int:
        """Which one a job is in the whole queue, counting from 1, that has this place among its project's queued jobs.

        As if no running job ended and none were added, and without quotas of running jobs.
        """
        own = self.lines.get(project_id, Line())
        others = (line for other, line in self.lines.items() if other != project_id)
        return place + sum(_taken_before(line, own, priority, place) for line in others)

    def of_queued(self, base_model: str, position: int, now: float) -> Forecast:
        """When a job that is in this position will start and end."""
        wait, own = self._wait(position - 1), self.typical.get(base_model)
        start = None if wait is None else Spread(now, now, now).plus(wait)
        return Forecast(start, None if start is None or own is None else start.plus(own))

    def of_running(self, job_id: str, now: float) -> Forecast:
        """When a running job will end."""
        left = self.left.get(job_id)
        return NOTHING if left is None else Forecast(None, Spread(now, now, now).plus(left))

    def _wait(self, ahead: int) -> Spread | None:
        """How long running jobs and so many of the queued ones need, shared by the workers."""
        if ahead < self.workers - len(self.left):
            return NO_TIME
        total = NO_TIME
        for left in self.left.values():
            if left is None:
                return None
            total = total.plus(left)
        if ahead:
            mean = self._mean_of_waiting()
            if mean is None:
                return None
            total = total.plus(mean.times(ahead))
        return total.times(1 / max(1, len(self.left), self.workers))

    def _mean_of_waiting(self) -> Spread | None:
        total = NO_TIME
        for base_model, count in self.waiting.items():
            typical = self.typical.get(base_model)
            if typical is None:
                return None
            total = total.plus(typical.times(count))
        return total.times(1 / max(1, sum(self.waiting.values())))


def _taken_before(other: Line, own: Line, priority: int, place: int) -> int:
    """How many jobs of another project are taken before the job at `place` of one's own.

    Each job that is taken makes its project one running job richer, and the poorer project goes first: of equal
    priority those go before whose project is poorer by then, and one more if it is as rich and goes first.
    """
    more_urgent = sum(count for each, count in other.queued.items() if each > priority)
    equal = other.queued.get(priority, 0)
    poorer_by = own.running + place - other.running - more_urgent
    before = poorer_by - 1 + (other.turn < own.turn)
    return more_urgent + max(0, min(equal, before))


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of some measured values; a single one has none."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    cuts = quantiles(values, n=10, method="inclusive")
    return Spread(cuts[0], cuts[4], cuts[8])
