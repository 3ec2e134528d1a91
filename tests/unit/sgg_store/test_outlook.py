"""What lies before queued jobs: their turns as workers will really take them, and the time that they need."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_store.outlook import NOTHING, Forecast, Line, Outlook, Spread, spread_of

HOUR = Spread(3000, 3600, 4000)
DAY = Spread(80_000, 86_400, 90_000)


@dataclass
class Project:
    """A project's line, worked off by the rule of `sgg_store.turns`."""

    running: int
    last_claimed_at: float
    first_created_at: float
    queued: int
    taken: int = field(default=0)


def order_of_claims(projects: dict[str, Project]) -> list[tuple[str, int]]:
    """Let workers take every job, none of which ends: the project with fewest running ones, then who waited longest."""
    order = []
    now = 1000.0
    while waiting := {name: each for name, each in projects.items() if each.taken < each.queued}:
        name, project = min(
            waiting.items(),
            key=lambda item: (item[1].running, item[1].last_claimed_at, item[1].first_created_at + item[1].taken / 1e3),
        )
        project.running, project.taken, project.last_claimed_at = project.running + 1, project.taken + 1, now
        order.append((name, project.taken))
        now += 1
    return order


lines = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, 3.0]), st.integers(1, 5)), min_size=1, max_size=4
)


@given(lines)
def test_positions_are_the_order_in_which_workers_take_the_jobs(drawn: list[tuple[int, float, int]]) -> None:
    projects = {
        f"p{number}": Project(running, claimed, number, queued)
        for number, (running, claimed, queued) in enumerate(drawn)
    }
    outlook = Outlook(
        {
            name: Line(each.running, each.last_claimed_at, each.first_created_at, {0: each.queued})
            for name, each in projects.items()
        }
    )
    positions = [outlook.position(name, 0, place) for name, place in order_of_claims(projects)]
    assert positions == list(range(1, len(positions) + 1))


def test_what_is_more_urgent_goes_first_also_when_its_project_has_jobs_running() -> None:
    outlook = Outlook({"busy": Line(9, 5.0, 1.0, {3: 2, 0: 4}), "idle": Line(0, 0.0, 2.0, {0: 1, -1: 1})})
    assert [outlook.position("busy", 3, place) for place in (1, 2)] == [1, 2]
    assert outlook.position("idle", 0, 1) == 3  # the busy project's ordinary jobs wait for it
    assert [outlook.position("busy", 0, place) for place in (3, 6)] == [4, 7]
    assert outlook.position("idle", -1, 2) == 8


def test_a_job_that_the_outlook_does_not_know_yet_comes_after_those_that_it_knows() -> None:
    assert Outlook().position("new", 0, 1) == 1
    assert Outlook({"other": Line(0, 0.0, 1.0, {0: 3})}).position("other", 0, 4) == 4


def test_a_job_waits_for_the_running_ones_and_for_those_before_it() -> None:
    outlook = Outlook(left={"a": HOUR, "b": HOUR}, typical={"m": HOUR, "n": DAY}, waiting={"m": 3, "n": 1})
    first = outlook.of_queued("m", 1, 0.0)
    assert first == Forecast(HOUR, HOUR.plus(HOUR))  # two workers share what is running
    third = outlook.of_queued("m", 3, 0.0)
    assert third.start is not None and first.start is not None
    mean = (3 * HOUR.likely + DAY.likely) / 4
    assert third.start.likely == pytest.approx(first.start.likely + 2 * mean / 2)


def test_what_was_never_measured_is_not_told() -> None:
    assert Outlook(left={"a": None}).of_queued("m", 1, 5.0) == NOTHING
    assert Outlook(waiting={"m": 2}).of_queued("m", 2, 5.0) == NOTHING
    assert Outlook().of_queued("m", 1, 5.0) == Forecast(Spread(5, 5, 5), None)
    assert Outlook().of_running("a", 5.0) == NOTHING
    assert Outlook(left={"a": HOUR}).of_running("a", 5.0) == Forecast(None, HOUR.plus(Spread(5, 5, 5)))


def test_a_spread_holds_eight_of_ten_values() -> None:
    values = [float(value) for value in range(101)]
    spread = spread_of(values)
    assert (spread.early, spread.likely, spread.late) == (10, 50, 90)
    assert spread_of([3.0]).early == spread_of([3.0]).late == 3.0


def test_an_idle_worker_takes_a_job_at_once_and_all_workers_share_what_lies_before() -> None:
    known = {"left": {"a": HOUR}, "typical": {"m": HOUR}, "waiting": {"m": 4}}
    of_three = Outlook(**known, workers=3)
    starts = [of_three.of_queued("m", position, 0.0).start for position in (1, 2, 3)]
    assert starts == [Spread(0, 0, 0), Spread(0, 0, 0), HOUR.times(3).times(1 / 3)]
    assert Outlook(**known).of_queued("m", 1, 0.0).start == HOUR
