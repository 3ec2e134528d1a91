"""The throughput table: every number of jobs has its turn, each job takes its steps, packed or not."""

from pathlib import Path

import pytest

from sgg_core.bench.throughput import Setting, as_table, compare, turn
from sgg_core.examples import read_examples
from sgg_core.guidance.passes import TaskBatch
from sgg_core.spec import OptimizationSpec, TrainingSpec
from sgg_core.tiny import save_tiny_base, tiny_base

DATA = Path(__file__).parents[4] / "examples" / "support_tickets.train.jsonl"


def test_every_number_of_jobs_has_its_turn(tmp_path):
    told = []
    setting = Setting(save_tiny_base(tmp_path / "base", "encoder"), DATA, 2)
    lines = compare(setting, (1, 3), 1, told.append)
    assert [line["jobs"] for line in lines] == [1, 3]
    assert [text.split(":")[0] for text in told] == [
        f"round 1 of 1, {way}" for way in ("one job alone", "1 packed", "3 packed")
    ]
    for line in lines:
        assert line["jobs_an_hour"] == pytest.approx(3600 * line["jobs"] / line["seconds"], rel=0.01)
        assert line["ratio"] == pytest.approx(
            line["jobs_an_hour"] / line["jobs_an_hour_one_by_one"], rel=0.02, abs=0.01
        )
        tokens = sum(reporter.tokens() for reporter in _reporters(setting, line["jobs"]))
        assert line["tokens_a_second"] * line["seconds"] == pytest.approx(tokens, rel=0.05)
        assert "torch" in line["machine"]
    assert as_table(lines).count("\n") == 3


def _reporters(setting, count):
    specs = [
        TrainingSpec(
            base_model=setting.entry.name,
            seed=seed,
            optimization=OptimizationSpec(epochs=1000, max_steps=setting.steps + 1),
        )
        for seed in range(count)
    ]
    return turn(tiny_base("encoder"), read_examples(setting.data), specs, setting.steps, packed=False)[1]


@pytest.mark.parametrize("packed", [True, False])
def test_each_job_takes_its_steps_and_no_more(packed, monkeypatch):
    taken = []
    gradient = TaskBatch.gradient
    monkeypatch.setattr(TaskBatch, "gradient", lambda batch: taken.append(batch.seed) or gradient(batch))
    spec = TrainingSpec(base_model="tiny-encoder", optimization=OptimizationSpec(epochs=1000, max_steps=3))
    seconds, reporters = turn(tiny_base("encoder"), read_examples(DATA), [spec] * 3, 2, packed)
    assert seconds > 0
    assert [len(reporter.losses()) for reporter in reporters] == [2] * 3
    assert len(taken) == 3 * 2
