"""Waiting times: percentiles as numpy's, every kind of job in the tables and the plot, and the machine in words."""

import random

import numpy as np
import pytest

from sgg_core.bench.cluster import percentile
from sgg_core.bench.figures import write_start_figure
from sgg_core.bench.machine import Machine, this_machine
from sgg_core.bench.start import CASES, BaseLoad, JobTimes, ServerStart, as_tables


@pytest.mark.parametrize("count", [1, 2, 5, 20])
@pytest.mark.parametrize("percent", [1, 50, 95, 99])
def test_percentiles_are_those_of_numpy(count, percent):
    values = [random.Random(count).random() for _ in range(count)]
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


@pytest.fixture
def rows():
    def job(case, base_model, seconds):
        times = {"answer": 0.01, "training": seconds, "first_step": 2 * seconds, "adapter": 10 * seconds}
        return JobTimes(server=0, case=case, base_model=base_model, **times)

    jobs = [job(case, name, 0.1 * number) for case in CASES for name in ("a", "b") for number in (1, 2, 3)]
    start = ServerStart(server=0, answers=1.0, ready=1.5, trainer=4.0)
    return [start, *jobs, BaseLoad(server=0, base_model="a", seconds=0.25)]


def test_tables_tell_medians_and_95th_percentiles_of_each_kind_and_base_model(rows):
    lines = as_tables(rows).splitlines()
    assert "| warm | b | 3 | 10 ms (10 ms) | 200 ms (290 ms) | 400 ms (580 ms) | 2.0 s (2.9 s) |" in lines
    assert sum(line.startswith(tuple(f"| {case} |" for case in CASES)) for line in lines) == 2 * len(CASES)
    assert "| 1 | 1.0 s (1.0 s) | 1.5 s (1.5 s) | 4.0 s (4.0 s) |" in lines
    assert "| a | 1 | 250 ms (250 ms) |" in lines


def test_the_plot_is_written_and_the_same_rows_give_the_same_bytes(rows, tmp_path):
    for name in ("one.png", "two.png"):
        write_start_figure(rows, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_machine_is_told_in_a_sentence_and_as_json():
    machine = this_machine()
    assert Machine.model_validate_json(machine.model_dump_json()) == machine
    assert machine.cores >= 1 and f"torch {machine.libraries['torch']}" in machine.in_words()
    bare = machine.model_copy(update={"memory_bytes": None, "gpus": ("H",), "libraries": {}})
    assert "None" not in bare.in_words() and ", H;" in bare.in_words()
