"""Cells, the CSV and the tables: equal examples for all methods, nothing lost, and figures against numpy."""

import json
import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest

from sgg_core.bench.cells import Folder, Row, append_row, grid, majority_share, read_rows, write_rows
from sgg_core.bench.figures import write_figures
from sgg_core.bench.tables import comparison_table, failed, interval, paired, selected, setting_tables
from sgg_core.errors import SpecError
from sgg_core.examples import parse_examples


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "weather"
    root.mkdir()
    for name in ("train", "test"):
        rows = [{"text": f"{name} {n}", "label": "ab"[n % 4 == 0]} for n in range(40)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Folder(root)


def test_support_sets_are_balanced_fixed_by_the_seed_and_apart_from_held_out_rows(folder):
    support = folder.support(4, seed=1)
    assert sorted(row["label"] for row in support) == ["a"] * 4 + ["b"] * 4
    assert support == Folder(folder.path).support(4, seed=1) != folder.support(4, seed=2)
    held_out = folder.held_out(50, support)
    assert len(held_out) == 32
    assert not {row["text"] for row in held_out} & {row["text"] for row in support}
    assert folder.test(10) == Folder(folder.path).test(10) and len(folder.test(99)) == 40
    assert majority_share(folder.test(99)) == 0.75


def test_rows_are_read_as_the_product_reads_them(tmp_path):
    lines = [
        '{"text": "a\u2028b", "label": " x "}',
        '{"text": "c", "label": 3, "text_pair": "d"}\r',
        "",
        '{"text": "e", "label": "x"}',
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    rows = sorted(Folder(tmp_path).test(9), key=lambda row: row["text"])
    assert rows == [
        {"text": "a\u2028b", "label": "x"},
        {"text": "c", "label": "3", "text_pair": "d"},
        {"text": "e", "label": "x"},
    ]
    parsed = parse_examples("\n".join(lines).encode(), "test.jsonl").classification
    assert sorted((each.text, each.label, each.text_pair) for each in parsed) == [
        (row["text"], row["label"], row.get("text_pair")) for row in rows
    ]


@pytest.mark.parametrize("row", ['{"text": "a"}', '{"text": "a", "label": 0.5}', '{"label": "x"}', "3"])
def test_a_row_that_cannot_be_tested_is_named_by_its_line(tmp_path, row):
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": "x"}\n\n' + row)
    with pytest.raises(SpecError, match="line 3 has no text or no label"):
        Folder(tmp_path).test(9)


def test_a_source_holds_nothing_that_the_target_trains_on_or_is_tested_with(folder, tmp_path):
    root = tmp_path / "forecasts"
    root.mkdir()
    shared = ["Test 7 .", "TRAIN  12", "train 1 2!", "«test 39»"]
    texts = [*(f"own {n}" for n in range(30)), "...", "test", "own 3"]
    rows = [{"text": text, "label": "c"} for text in (*shared, *texts)]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    apart = [{"text": "train 12", "label": "b"}, *folder.test(99)]
    source = Folder(root).as_source(0, apart)
    assert sorted(row["text"] for row in source) == sorted(texts)
    assert source == Folder(root).as_source(0, apart) != Folder(root).as_source(1, apart)
    assert Folder(root).as_source(0, rows) == []


def test_pairs_are_the_same_where_both_texts_are(tmp_path):
    for name, pair in (("one", "b c"), ("other", "d")):
        (tmp_path / name).mkdir()
        for file in ("train", "test"):
            row = {"text": "a", "text_pair": pair, "label": "x"}
            (tmp_path / name / f"{file}.jsonl").write_text(json.dumps(row) + "\n")
    other = Folder(tmp_path / "other").test(9)
    assert len(Folder(tmp_path / "one").as_source(0, other)) == 1
    assert Folder(tmp_path / "other").as_source(0, other) == []


def test_what_is_no_task_or_has_too_few_examples_is_said(folder, tmp_path):
    with pytest.raises(SpecError, match="fewer than 11"):
        folder.support(11, seed=0)
    with pytest.raises(SpecError, match=r"train\.jsonl cannot be read"):
        Folder(tmp_path).support(1, 0)


def test_the_grid_is_complete_and_goes_seed_by_seed():
    cells = list(grid(["x", "y"], [("x", "y")], ["m"], ["a", "b"], ["c"], [4, 8], range(3)))
    assert len(cells) == len(set(cells)) == 3 * 2 * (2 * 2 + 1)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def row(method="lora", seed=0, accuracy=0.5, **more):
    fields = {"task": "t", "base_model": "m", "shots": 8, "test_items": 100, "majority": 0.5}
    return Row(method=method, seed=seed, accuracy=accuracy, **fields | more)


def test_rows_come_back_from_the_csv_and_a_half_written_line_does_not(tmp_path):
    path = tmp_path / "results.csv"
    rows = [row(), row(seed=1, source="s", note='a, "quoted" note', accuracy=None)]
    write_rows(path, rows[:1])
    append_row(path, rows[1])
    assert read_rows(path) == rows
    content = path.read_bytes()
    for end in range(content.index(b"\n") + 1, len(content)):
        path.write_bytes(content[:end])
        assert {row.seed for row in read_rows(path)} <= {0, 1}
    assert read_rows(tmp_path / "none.csv") == []


def test_a_cell_has_its_later_row_unless_that_says_only_why_there_is_none(tmp_path):
    path = tmp_path / "results.csv"
    failed_row = row(accuracy=None, note="no")
    for rows, kept in (
        ([failed_row, row(accuracy=0.7)], row(accuracy=0.7)),
        ([row(accuracy=0.7), row(accuracy=0.6, test_items=50)], row(accuracy=0.6, test_items=50)),
        ([row(accuracy=0.7), failed_row], row(accuracy=0.7)),
    ):
        write_rows(path, rows)
        assert read_rows(path) == [kept]
    assert [each.name for each in tmp_path.iterdir()] == ["results.csv"]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_intervals_of_few_values_are_students(count):
    values = [random.Random(n).gauss(0.5, 0.05) for n in range(count)]
    found = interval(values)
    reach = {2: 12.706, 3: 4.303, 10: 2.262}[count] * stdev(values) / math.sqrt(count)
    assert [found.mean, found.low, found.high] == pytest.approx(
        [fmean(values), fmean(values) - reach, fmean(values) + reach]
    )


def test_one_value_has_no_interval_and_accuracies_end_at_one():
    assert interval([0.89]).told("") == "0.890"
    assert interval([0.8, 0.9], 0.0, 1.0).told("") == "0.850 (0.215 to 1.000)"
    assert interval([-0.1, 0.2]).told() == "+0.050 (-1.856 to +1.956)"


def test_intervals_of_many_values_are_those_of_resampled_means():
    values = [random.Random(n).gauss(0.02, 0.05) for n in range(12)]
    found = interval(values)
    means = np.random.default_rng(0).choice(values, (20_000, 12)).mean(1)
    assert found.mean == pytest.approx(np.mean(values))
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.003)


def test_differences_are_paired_by_seed():
    one = {seed: row("sgg", seed, 0.5 + seed / 10) for seed in (1, 2, 3)}
    other = {seed: row("lora", seed, 0.5) for seed in (2, 3, 4)}
    assert paired(one, other) == pytest.approx([0.2, 0.3])
    assert paired(one | {3: row("sgg", 3, 0.8, test_items=50)}, other) == pytest.approx([0.2])
    assert failed([row(accuracy=value) for value in (0.3, 0.54, 0.56, 0.9)]) == 0.5


def test_tables_show_every_setting_and_the_mean_over_tasks():
    rows = [row(method, seed, base + seed / 100, task=task)
            for task in ("t", "u") for method, base in (("lora", 0.5), ("sgg", 0.6)) for seed in (0, 1)]  # fmt: skip
    tables = setting_tables(rows, "lora")
    assert tables.count("### ") == 2 and tables.count("+0.100 (+0.100 to +0.100)") == 2
    assert "0.605 (0.541 to 0.669)" in tables
    assert _of("sgg", rows) == ["2", "0.605", "4", "+0.100 (+0.100 to +0.100)", "4", "0", "-"]
    assert _of("lora", rows) == ["2", "0.505", "-", "-", "-", "-", "-"]


def _of(method, rows):
    """A method's cells in the comparison with plain LoRA, from the number of tasks on."""
    (line,) = [line for line in comparison_table(rows, "lora").splitlines() if f"| {method} |" in line]
    return line.strip("| ").split(" | ")[4:]


def test_methods_are_compared_over_pairs_of_a_task_and_seed_and_over_tasks():
    """A task with more seeds has more pairs, and is one task all the same."""
    above = {"t": [0.1] * 9 + [-0.1], "u": [0.2, 0.0], "v": [-0.1]}
    rows = [row("lora", seed, 0.5, task=task) for task, values in above.items() for seed in range(len(values))]
    rows += [
        row("sgg", seed, 0.5 + value, task=task) for task, values in above.items() for seed, value in enumerate(values)
    ]
    rows += [row("sgg", 5, 0.9, task="u"), row("lora", 6, 0.2, task="v"), row("sgg", 6, 0.9, task="v", test_items=50)]
    found = _of("sgg", rows)
    assert (found[0], found[2], found[4:6]) == ("3", "13", ["10", "2"])
    assert found[3].startswith(f"{fmean(above['t'] + above['u'] + above['v']):+.3f} (")
    assert found[6] == interval([0.08, 0.1, -0.1]).told()
    assert _of("sgg", [each for each in rows if each.task != "v"])[6] == "-"
    alone = [each for each in rows if each.task == "v" and each.test_items == 100]
    assert _of("sgg", alone)[2:] == ["1", "-0.100", "0", "1", "-"]


def test_two_sources_of_one_target_are_one_task():
    rows = [
        row(method, 0, 0.5, task=task, source=source)
        for method in ("lora", "sgg")
        for task, source in (("t", "a"), ("t", "b"), ("u", "a"))
    ]
    found = _of("sgg", rows)
    assert (found[0], found[2], found[6]) == ("2", "3", "-")


def test_tables_are_of_the_tasks_methods_and_seeds_that_are_asked_for():
    rows = [row(method, seed, task=task) for task in "tu" for method in ("lora", "sgg", "full") for seed in (0, 1, 2)]
    found = selected(rows, ["t"], ["sgg"], ["lora"], 2)
    assert {(each.task, each.method, each.seed) for each in found} == {
        ("t", method, seed) for method in ("lora", "sgg") for seed in (0, 1)
    }
    assert selected(rows, [], [], ["lora"], None) == rows
    for tasks, methods in ((["x"], []), ([], ["sggg"])):
        with pytest.raises(SpecError, match="There is no row of the"):
            selected(rows, tasks, methods, ["lora"], None)


def test_plots_are_drawn_of_what_there_is(tmp_path):
    assert write_figures([row(accuracy=None, note="n")], "lora", tmp_path / "none") == []
    rows = [row(method, 0, 0.5, shots=shots, log_norm_change_std=0.1, directional_alignment=0.2)
            for method in ("lora", "sgg") for shots in (4, 8)]  # fmt: skip
    names = {path.name for path in write_figures(rows, "lora", tmp_path / "all")}
    assert names == {"accuracy.png", "stability.png", "alignment.png"}


def test_methods_that_ran_with_few_numbers_of_shots_are_in_the_table_and_not_in_the_plot(tmp_path):
    rows = [row(method, 0, 0.5, shots=shots) for method in ("lora", "sgg") for shots in (1, 4, 8)]
    drawn = [
        write_figures(each, "lora", tmp_path / name)[0].read_bytes()
        for name, each in (
            ("a", rows),
            ("b", [*rows, row("full", 0, 0.6, shots=8)]),
            ("c", [*rows, row("full", 0, 0.6, shots=8), row("full", 0, 0.6, shots=4)]),
        )
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_parts_are_compared_over_the_cells_that_all_of_them_have(tmp_path):
    whole = [row(method, 0, value) for method, value in (("lora", 0.5), ("sgg_direction", 0.55), ("sgg", 0.6))]
    others = [row(method, 1, 0.9) for method in ("lora", "sgg")] + [row("sgg", 0, 0.2, shots=32)]
    drawn = [
        next(path for path in write_figures(rows, "lora", tmp_path / name) if path.name == "ablation.png").read_bytes()
        for name, rows in (("a", whole), ("b", [*whole, *others]))
    ]
    assert drawn[0] == drawn[1]
    changed = [*whole[:2], row("sgg", 0, 0.65)]
    write_figures(changed, "lora", tmp_path / "c")
    assert (tmp_path / "c" / "ablation.png").read_bytes() != drawn[0]
