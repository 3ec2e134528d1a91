"""The overhead table: every way to train has its turn, plain LoRA is 1, and the base model stays as it was."""

import resource
from pathlib import Path

import psutil
import pytest
import torch

from sgg_core.bench import overhead
from sgg_core.bench.overhead import FULL, PLAIN, TRAINER, WAYS, Setting, as_table, compare, peak_of, turn
from sgg_core.bench.speed_figures import draw_overhead
from sgg_core.errors import SpecError
from sgg_core.tiny import save_tiny_base, tiny_base

DATA = Path(__file__).parents[4] / "examples" / "support_tickets.train.jsonl"


@pytest.fixture
def setting(tmp_path):
    return Setting(save_tiny_base(tmp_path / "base", "causal"), DATA, 6, 2)


def test_every_way_has_its_turn_and_plain_lora_is_one(setting, tmp_path):
    told = []
    lines = compare(setting, 1, False, told.append)
    assert [line["way"] for line in lines] == [*WAYS, TRAINER, FULL]
    plain = next(line for line in lines if line["way"] == PLAIN)
    assert plain["seconds_ratio"] == 1.0
    assert [line.split(":")[0] for line in told] == [f"round 1 of 1, {line['way']}" for line in lines]
    for line in lines:
        assert line["seconds"] > 0
        assert line["seconds_ratio"] == pytest.approx(line["seconds"] / plain["seconds"], rel=0.05, abs=0.02)
        assert "torch" in line["machine"]
    assert as_table(lines).count("\n") == len(lines) + 1
    draw_overhead(lines, (TRAINER, FULL), tmp_path / "plots" / "overhead.png")
    assert (tmp_path / "plots" / "overhead.png").stat().st_size > 1000


def test_the_base_model_stays_as_it_was(setting):
    base = tiny_base("causal")
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    for name in (TRAINER, FULL, "finite difference"):
        assert len(turn(base, setting, name)) == 4
        after = base.model.state_dict()
        assert set(after) == set(before) and all(torch.equal(after[key], before[key]) for key in before)


def test_passes_are_those_that_are_taken(setting, monkeypatch):
    """Gradients a step, counted where they are taken."""
    from sgg_core.guidance.passes import TaskBatch

    taken = []
    gradient = TaskBatch.gradient
    monkeypatch.setattr(TaskBatch, "gradient", lambda batch: taken.append(len(batch.items)) or gradient(batch))
    base = tiny_base("causal")
    for name in (PLAIN, "momentum", "finite difference"):
        taken.clear()
        turn(base, setting, name)
        assert sum(taken) == WAYS[name][0] * setting.steps * setting.batch_size, name


def test_a_correction_in_every_fourth_step_is_shared_by_whole_cycles():
    assert overhead.cycles([1.0, 5.0, 1.0, 1.0, 1.0, 6.0]) == [2.0]
    assert overhead.cycles([1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 3.0, 1.0]) == [1.25, 1.5]


def test_a_turn_ends_with_its_last_step(setting, monkeypatch):
    """What follows a run's last step, the search for doubtful labels and the adapter's file, is no part of a turn."""
    from sgg_core import trainer

    def finish(*_):
        raise AssertionError("the run went on to its end")

    monkeypatch.setattr(trainer.Run, "_finish", finish)
    assert len(turn(tiny_base("causal"), setting, PLAIN)) == setting.steps - overhead.WARM_UP


def test_peak_memory_is_that_of_this_process(setting):
    resident = psutil.Process().memory_info().rss
    passing = b"x" * 2**28
    del passing
    peak = peak_of(setting, PLAIN) * 2**30
    assert 0.5 * resident + 0.9 * 2**28 <= peak <= 1.01 * 2**10 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_an_unknown_way_is_named(setting):
    with pytest.raises(SpecError, match="Known: plain LoRA"):
        turn(tiny_base("causal"), setting, "sideways")
    assert not overhead._suits(tiny_base("encoder"), TRAINER)
