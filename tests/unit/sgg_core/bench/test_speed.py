"""Peers: Trainer learns what we learn, every way has its turn, and ratios are those of its times."""

from pathlib import Path

import pytest
import torch

from sgg_core.bench import speed
from sgg_core.bench.arithmetic import matmul_rate
from sgg_core.bench.speed import Setting, as_table, compare, few_shot
from sgg_core.bench.speed_figures import draw_peers
from sgg_core.bench.throughput import turn
from sgg_core.bench.trainer_peer import train_with_trainer
from sgg_core.errors import SpecError
from sgg_core.examples import parse_examples
from sgg_core.tiny import save_tiny_base, tiny_base

EXAMPLES = Path(__file__).parents[4] / "examples"
FILES = {"encoder": EXAMPLES / "support_tickets.train.jsonl", "causal": EXAMPLES / "ticket_subjects.completion.jsonl"}


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_trainer_with_peft_has_our_loss_curve_and_leaves_the_base_model_as_it_was(kind):
    base = tiny_base(kind)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    setting = Setting(base.entry, few_shot(FILES[kind], 3), steps=8, batch_size=5, jobs=(1,), processes=1, setfit=False)
    _, (ours,) = turn(base, setting.examples(), [setting.spec()], setting.steps, packed=False)
    _, losses = train_with_trainer(base, setting.examples(), setting.spec(), setting.steps)
    assert losses == pytest.approx(ours.losses(), rel=1e-4)
    after = base.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert not base.model.training


def test_every_way_has_its_turn_and_ratios_are_of_its_times(tmp_path):
    entry, told = save_tiny_base(tmp_path / "base", "encoder"), []
    setting = Setting(
        entry, few_shot(FILES["encoder"], 2), steps=3, batch_size=5, jobs=(2, 3), processes=2, setfit=False
    )
    lines = compare(setting, 1, told.append)
    assert [text.split(": ")[0] for text in told] == [f"round 1 of 1, {line['way']}" for line in lines]
    by_way = {(line["way"], line["jobs"]): line for line in lines}
    one = by_way[speed.ONE, 1]
    for line in lines:
        against = by_way[speed.PACKED, line["jobs"]] if line["way"] == speed.PACKED_GUIDED else one
        assert line["ratio"] == pytest.approx(line["seconds_a_job"] / against["seconds_a_job"], rel=0.05, abs=0.02)
        assert line["seconds"] == pytest.approx(line["jobs"] * line["seconds_a_job"], abs=0.01)
        assert 0 <= line["share"] < 1
    specs = [setting.spec(seed) for seed in range(2)]
    _, reporters = turn(tiny_base("encoder"), setting.examples(), specs, 3, packed=False)
    for way in (speed.PACKED, speed.PROCESSES):  # the same two jobs
        tokens = by_way[way, 2]["tokens_a_second"] * by_way[way, 2]["seconds"]
        assert tokens == pytest.approx(sum(reporter.tokens() for reporter in reporters), rel=0.02)
    assert by_way[speed.TRAINER, 1]["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert [line["pack"] for line in lines if "pack" in line] == [1, 2, 3]
    assert as_table(lines).count("\n") == len(lines) + 1
    draw_peers(lines, tmp_path / "plots" / "speed.png")
    assert (tmp_path / "plots" / "speed.png").stat().st_size > 1000


def test_few_shots_are_the_first_of_each_label():
    name, content = few_shot(FILES["encoder"], 2)
    found = parse_examples(content, name).classification
    whole = parse_examples(FILES["encoder"].read_bytes(), "whole.jsonl").classification
    for label in {example.label for example in whole}:
        assert [e for e in found if e.label == label] == [e for e in whole if e.label == label][:2]
    assert few_shot(FILES["causal"], 2)[1] == FILES["causal"].read_bytes()


def test_label_words_are_refused_since_others_have_another_loss(tmp_path):
    entry = save_tiny_base(tmp_path / "base", "causal")
    with pytest.raises(SpecError, match="completions or chats"):
        compare(Setting(entry, few_shot(FILES["encoder"], 2), 1, 4, (2,), 2, False), 1, print)


def test_the_rate_of_a_machine_is_that_of_a_computer():
    assert 1e9 < matmul_rate(torch.device("cpu"), tries=1) < 1e14
