"""How many workers a day's jobs need: a discrete-event simulation of a queue that workers take jobs from.

Jobs arrive as a Poisson process whose rate swings over the day. Every worker trains up to `capacity` jobs together,
and a job that finds a place joins the others at once; the worker with the fewest jobs takes it, else it waits, first
come, first served. With J jobs together each one goes on at the rate 1 / pace(J), where pace(J) are the seconds that a
pack of J jobs takes from its beginning to its end, as `sgg bench throughput` measures them. All jobs are alike.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any

from sgg_core.card import table
from sgg_core.errors import SpecError

DAY = 86_400.0


class Pace:
    """Seconds that a pack of so many jobs takes: as measured, and on a straight line in between."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        if 1 not in seconds or min(seconds) < 1 or min(seconds.values()) <= 0:
            raise SpecError("The pace of one job alone is not known.", "Give the seconds of 1 job, above 0.")
        self.seconds = dict(sorted(seconds.items()))

    @property
    def capacity(self) -> int:
        """The largest pack whose pace is known."""
        return max(self.seconds)

    def of(self, jobs: int) -> float:
        """Seconds of a pack of `jobs`, from 1 to the capacity."""
        above = min(known for known in self.seconds if known >= jobs)
        if above == jobs:
            return self.seconds[jobs]
        below = max(known for known in self.seconds if known < jobs)
        share = (jobs - below) / (above - below)
        return (1 - share) * self.seconds[below] + share * self.seconds[above]

    def scaled(self, alone: float) -> Pace:
        """The same for longer or shorter jobs, of which one alone takes `alone` seconds."""
        return Pace({jobs: seconds * alone / self.seconds[1] for jobs, seconds in self.seconds.items()})


def pace_of(lines: Sequence[Mapping[str, Any]]) -> Pace:
    """The pace in lines of `sgg bench throughput --json` or `sgg bench peers --json`; others are passed over."""
    found: dict[int, float] = {}
    for line in lines:
        if "jobs_an_hour_one_by_one" in line:
            found[line["jobs"]] = line["seconds"]
            found[1] = 3600 / line["jobs_an_hour_one_by_one"]
        elif "pack" in line:
            found[line["pack"]] = line["seconds"]
    return Pace(found)


def arrivals(jobs_a_day: float, swing: float, days: float, seed: int) -> list[float]:
    """Seconds at which jobs arrive: Poisson, at a rate that is (1 + swing) times its mean at noon, (1 - swing) at
    midnight. By thinning (Lewis and Shedler 1979)."""
    draws = random.Random(seed)  # nosec B311 # no secret
    highest = jobs_a_day / DAY * (1 + swing)
    found: list[float] = []
    now = 0.0
    while (now := now + draws.expovariate(highest)) < days * DAY:
        rate = jobs_a_day / DAY * (1 - swing * math.cos(2 * math.pi * now / DAY))
        if draws.random() * highest < rate:
            found.append(now)
    return found


@dataclass
class Worker:
    """One trainer and its jobs. `done` counts the jobs that one who had been there from the start would have made."""

    pace: Pace
    changed_at: float = 0.0
    done: float = 0.0
    running: deque[tuple[float, int]] = field(default_factory=deque)  # (done at its end, job), in that order
    version: int = 0  # of what is expected next
    busy: float = 0.0

    def reach(self, now: float) -> None:
        """Let its jobs go on until `now`."""
        if self.running:
            self.done += (now - self.changed_at) / self.pace.of(len(self.running))
            self.busy += now - self.changed_at
        self.changed_at = now

    def next_end(self) -> float:
        """When its first job ends if nothing changes before."""
        return self.changed_at + max(0.0, self.running[0][0] - self.done) * self.pace.of(len(self.running))


@dataclass(frozen=True)
class Served:
    """When each job began and ended, in the order of their arrivals, and how busy workers were."""

    begun: Sequence[float]
    ended: Sequence[float]
    utilisation: float


def simulate(arriving: Sequence[float], workers: int, pace: Pace, start_up: float = 0.0) -> Served:
    """Let workers, which are ready `start_up` seconds after 0, serve jobs that arrive at sorted times."""
    site = _Site(workers, pace, start_up, len(arriving))
    for job, moment in enumerate(arriving):
        site.run_until(moment)
        site.arrive(job, moment)
    site.run_until(math.inf)
    last = max(site.ended, default=0.0)
    busy = sum(worker.busy for worker in site.workers)
    return Served(site.begun, site.ended, busy / (workers * (last - start_up)) if last > start_up else 0.0)


class _Site:
    """The workers, the jobs that wait, and what comes next."""

    def __init__(self, workers: int, pace: Pace, start_up: float, jobs: int) -> None:
        self.pace = pace
        self.workers = [Worker(pace) for _ in range(workers)]
        self.begun, self.ended = [0.0] * jobs, [0.0] * jobs
        self.waiting: deque[int] = deque()
        self.expected: list[tuple[float, int, int]] = []  # (moment, worker, version)
        self.free: list[tuple[int, int]] = []  # (jobs, worker), some of them out of date
        self.start_up = start_up
        self.ready = start_up <= 0.0
        if self.ready:
            self._open()

    def arrive(self, job: int, now: float) -> None:
        """A job begins, or waits."""
        self.waiting.append(job)
        self._fill(now)

    def run_until(self, moment: float) -> None:
        """Let jobs end, and workers start, up to `moment`."""
        if not self.ready and self.start_up <= moment:
            self.ready = True
            self._open()
            self._fill(self.start_up)
        while self.expected and self.expected[0][0] <= moment:
            now, number, version = heapq.heappop(self.expected)
            worker = self.workers[number]
            if version != worker.version:
                continue
            worker.reach(now)
            self.ended[worker.running.popleft()[1]] = now
            self._changed(number)
            self._fill(now)

    def _open(self) -> None:
        self.free = [(0, number) for number in range(len(self.workers))]

    def _fill(self, now: float) -> None:
        """Give jobs that wait to the workers with the fewest."""
        while self.waiting and self.free:
            count, number = heapq.heappop(self.free)
            worker = self.workers[number]
            if count != len(worker.running):
                continue
            job = self.waiting.popleft()
            worker.reach(now)
            worker.running.append((worker.done + 1.0, job))
            self.begun[job] = now
            self._changed(number)

    def _changed(self, number: int) -> None:
        worker = self.workers[number]
        worker.version += 1
        if worker.running:
            heapq.heappush(self.expected, (worker.next_end(), number, worker.version))
        if len(worker.running) < self.pace.capacity:
            heapq.heappush(self.free, (len(worker.running), number))


def line_of(arriving: Sequence[float], workers: int, pace: Pace, start_up: float) -> dict[str, Any]:
    """What so many workers give: waiting times until a job begins, and times until its result, in seconds."""
    served = simulate(arriving, workers, pace, start_up)
    waits = [begun - moment for begun, moment in zip(served.begun, arriving, strict=True)]
    results = [ended - moment for ended, moment in zip(served.ended, arriving, strict=True)]
    return {
        "workers": workers,
        "utilisation": round(served.utilisation, 3),
        "wait_mean": round(mean(waits), 3),
        "wait_p50": round(percentile(waits, 50), 3),
        "wait_p95": round(percentile(waits, 95), 3),
        "result_p95": round(percentile(results, 95), 3),
        "jobs_an_hour": round(3600 * len(arriving) / (max(served.ended) - arriving[0]), 1),
    }


def fewest_workers(arriving: Sequence[float], pace: Pace, start_up: float, target: float, most: int) -> int:
    """The fewest workers with which 95 % of the jobs wait for at most `target` seconds, by bisection.

    Raises SpecError if `most` do not suffice.
    """

    def suffice(workers: int) -> bool:
        return bool(line_of(arriving, workers, pace, start_up)["wait_p95"] <= target)

    enough = 1
    while enough < most and not suffice(enough):
        enough = min(2 * enough, most)
    if enough == most and not suffice(most):
        raise SpecError(
            f"{most} workers do not keep the waiting time of 95 % of the jobs below {target:g} s.",
            "Raise --most-workers or --target-wait; it has to be above --start-up where jobs come from the start.",
        )
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if suffice(middle) else (enough, middle)
    return enough


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, by the inclusive method."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def plan_cluster(
    arriving: Sequence[float], pace: Pace, start_up: float, target: float, most: int
) -> list[dict[str, Any]]:
    """Lines for the fewest workers that keep the target, which is said there, and for some fewer and more."""
    if not arriving:
        raise SpecError("No job arrives.", "Raise --jobs-a-day or --days.")
    needed = fewest_workers(arriving, pace, start_up, target, most)
    counts = sorted({max(1, round(needed * share)) for share in (0.8, 0.9, 0.95, 1.0, 1.05, 1.2, 1.5)})
    return [line_of(arriving, count, pace, start_up) | {"needed": count == needed} for count in counts]


def as_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown; the needed number of workers is named first."""
    keys = ("workers", "utilisation", "wait_p50", "wait_p95", "result_p95", "jobs_an_hour")
    header = ["workers", "utilisation", "wait p50, s", "wait p95, s", "result p95, s", "jobs an hour"]
    (needed,) = [line["workers"] for line in lines if line["needed"]]
    shown = table(header, [[line[key] for key in keys] for line in lines])
    return f"{needed} {'worker is' if needed == 1 else 'workers are'} needed.\n\n{shown}"
