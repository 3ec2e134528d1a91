"""The simulated cluster: every job is served once, one worker is an M/D/1 queue, and more workers never wait longer."""

import json
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from sgg_core.bench.cluster import (
    Pace,
    arrivals,
    as_table,
    fewest_workers,
    line_of,
    pace_of,
    plan_cluster,
    simulate,
)
from sgg_core.errors import SpecError

moments = st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted)
paces = st.lists(st.floats(0.0, 2.0), min_size=0, max_size=4).map(
    lambda more: Pace({1: 5.0} | {n + 2: 5.0 * (n + 2) * (1 - share / 4) for n, share in enumerate(more)})
)


@given(moments, st.integers(1, 5), paces, st.floats(0, 20))
def test_every_job_is_served_once_in_its_turn_and_no_faster_than_alone(arriving, workers, pace, start_up):
    served = simulate(arriving, workers, pace, start_up)
    assert list(served.begun) == sorted(served.begun)
    for arrived, begun, ended in zip(arriving, served.begun, served.ended, strict=True):
        assert max(arrived, start_up) <= begun
        assert ended - begun >= min(pace.of(jobs) for jobs in range(1, pace.capacity + 1)) - 1e-6
    together = [
        sum(begun <= moment < ended for begun, ended in zip(served.begun, served.ended, strict=True))
        for moment in served.begun
    ]
    assert max(together) <= workers * pace.capacity
    assert 0 <= served.utilisation <= 1 + 1e-9


@given(moments, st.integers(1, 6), st.floats(0, 20))
def test_with_more_workers_no_job_waits_longer(arriving, workers, start_up):
    pace = Pace({1: 5.0})
    fewer, more = (simulate(arriving, count, pace, start_up) for count in (workers, workers + 1))
    assert all(b <= a + 1e-9 for a, b in zip(fewer.begun, more.begun, strict=True))


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_worker_without_packs_waits_as_pollaczek_and_khinchine_say(load):
    """M/D/1: the mean wait is load / (2 (1 - load)) services."""
    service = 10.0
    arriving = arrivals(jobs_a_day=86_400 * load / service, swing=0.0, days=20, seed=1)
    served = simulate(arriving, 1, Pace({1: service}))
    waits = mean(begun - arrived for begun, arrived in zip(served.begun, arriving, strict=True))
    assert waits == pytest.approx(service * load / (2 * (1 - load)), rel=0.05)
    assert served.utilisation == pytest.approx(load, rel=0.02)


def test_a_pack_goes_on_at_the_pace_of_its_size():
    """Two jobs, the second one half a job later: 5 s alone, then 10 s for half of both, then 5 s alone."""
    served = simulate([0.0, 5.0], 1, Pace({1: 10.0, 2: 20.0}))
    assert served.ended == pytest.approx([15.0, 20.0])


def test_arrivals_are_as_many_as_said_and_swing_with_the_day():
    found = arrivals(50_000, 0.5, 2.0, seed=3)
    assert found == sorted(found) and found == arrivals(50_000, 0.5, 2.0, seed=3)
    assert len(found) == pytest.approx(100_000, rel=0.02)
    by_day = [moment % 86_400 / 3600 for moment in found]
    noon, midnight = (sum(abs(hour - at) < 1 for hour in by_day) for at in (12, 1))
    assert noon / midnight == pytest.approx(1.5 / 0.52, rel=0.1)


def test_the_fewest_workers_keep_the_target_and_one_less_does_not():
    arriving, pace = arrivals(5000, 0.5, 1.0, seed=2), Pace({1: 60.0, 4: 200.0})
    needed = fewest_workers(arriving, pace, 5.0, 30.0, 100)
    assert line_of(arriving, needed, pace, 5.0)["wait_p95"] <= 30.0
    assert line_of(arriving, needed - 1, pace, 5.0)["wait_p95"] > 30.0
    lines = plan_cluster(arriving, pace, 5.0, 30.0, 100)
    assert [line["workers"] for line in lines if line["needed"]] == [needed]
    assert as_table(lines).startswith(f"{needed} workers are needed.")
    assert as_table(plan_cluster(arriving, pace, 5.0, 1e9, 100)).startswith("1 worker is needed.")
    with pytest.raises(SpecError, match="--most-workers"):
        fewest_workers(arriving, pace, 5.0, 30.0, needed - 1)


def test_the_pace_is_taken_from_what_the_benchmarks_print():
    packed = {"jobs": 4, "seconds": 50.0, "jobs_an_hour": 288.0, "jobs_an_hour_one_by_one": 260.0, "ratio": 1.1}
    assert pace_of([packed]).seconds == {1: pytest.approx(3600 / 260), 4: 50.0}
    peers = [{"way": "a", "seconds": 12.0, "pack": 1}, {"way": "b", "seconds": 9.0}, {"seconds": 40.0, "pack": 4}]
    assert pace_of(peers).of(2) == pytest.approx(12 + 28 / 3)
    assert pace_of(peers).scaled(6.0).of(4) == 20.0
    with pytest.raises(SpecError, match="one job alone"):
        pace_of([{"pack": 4, "seconds": 40.0}])


def test_the_command_prints_a_table_or_lines_and_draws(tmp_path):
    speeds = tmp_path / "speeds.json"
    speeds.write_text(json.dumps({"pack": 1, "seconds": 20.0}) + "\n" + json.dumps({"pack": 4, "seconds": 60.0}))
    command = ["bench", "cluster", "--speeds", str(speeds), "--jobs-a-day", "2000", "--plot", str(tmp_path / "c.png")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "1 worker is needed" in shown.output and (tmp_path / "c.png").exists()
    lines = [json.loads(line) for line in CliRunner().invoke(app, [*command, "--json"]).output.splitlines()]
    assert sum(line["needed"] for line in lines) == 1
    packs = ["bench", "cluster", "--job-seconds", "20", "--packs", "4=60", "--jobs-a-day", "2000", "--json"]
    assert [json.loads(line) for line in CliRunner().invoke(app, packs).output.splitlines()] == lines


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "Give --speeds"), (["--job-seconds", "2", "--packs", "4:20"], "Write --packs")]
)
def test_what_is_not_known_is_asked_for(arguments, said):
    result = CliRunner().invoke(app, ["bench", "cluster", *arguments])
    assert result.exit_code == 2
    assert said in result.output
