"""Parts of a file for cross-validation: nothing is left out twice, and no fold lacks a label."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.errors import DataError
from sgg_core.folds import deal, fold_problem, only

COUNTS = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@given(COUNTS, st.integers(2, 10), st.integers(0, 2**31 - 1))
def test_each_example_is_left_out_once_and_each_label_is_spread_over_the_folds(file_of, counts, folds, seed):
    rows = [
        {"text": f"{n} of {label}", "label": f"l{label}"} for label, count in enumerate(counts) for n in range(count)
    ]
    training = file_of(rows)
    if len(rows) < folds:
        with pytest.raises(DataError, match=f"cannot be split into {folds} folds"):
            deal(training, folds, seed)
        return
    parts = deal(training, folds, seed)
    assert parts == deal(training, folds, seed)
    assert sorted(place for part in parts for place in part.left_out) == list(range(len(rows)))
    assert max(len(part.left_out) for part in parts) - min(len(part.left_out) for part in parts) <= 1
    for part in parts:
        assert sorted(part.kept + part.left_out) == list(range(len(rows)))
        assert {training.examples[place].label for place in part.kept} == set(training.labels)
    for label in training.labels:
        shares = [sum(training.examples[place].label == label for place in part.left_out) for part in parts]
        assert max(shares) - min(shares) <= 1


def test_another_seed_deals_otherwise(file_of):
    training = file_of([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(24)])
    dealt = [deal(training, 4, seed) for seed in range(3)]
    assert dealt[0] != dealt[1] != dealt[2]


def test_completions_are_dealt_without_labels(file_of):
    training = file_of([{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(7)])
    assert [len(part.left_out) for part in deal(training, 3, 0)] == [3, 2, 2]


def test_what_is_left_is_a_set_of_its_own_with_the_lines_of_the_file(training):
    kept, left = only(training, (0, 2, 5)), only(training, (1, 3, 4, 6, 7))
    assert kept.examples == (training.examples[0], training.examples[2], training.examples[5])
    assert kept.lines == (training.lines[0], training.lines[2], training.lines[5])
    assert kept.kind == training.kind and kept.filename == training.filename
    assert len({training.sha256, kept.sha256, left.sha256}) == 3
    assert only(training, (0, 2, 5)).sha256 == kept.sha256


def test_labels_with_one_example_are_named_all_at_once(file_of):
    rows = [{"text": "a", "label": "one"}, {"text": "b", "label": "lonely"}]
    rows += [{"text": f"c {n}", "label": "many"} for n in range(5)]
    with pytest.raises(DataError) as caught:
        deal(file_of(rows, "few.jsonl"), 3, 0)
    (problem,) = caught.value.problems
    assert "'lonely', 'one'" in problem.reason or '"lonely", "one"' in problem.reason
    assert problem.field == "label" and "few.jsonl" in str(caught.value)
    labels = {f"label {n:02d}": 1 for n in range(12)}
    told = fold_problem(Counter(labels), 12, 2)
    assert told is not None and "label 09" in told.reason and "label 10" not in told.reason


def test_files_without_counts_of_labels_are_judged_by_their_size_alone():
    assert fold_problem({}, 5, 5) is None
    assert fold_problem({}, 4, 5) is not None
