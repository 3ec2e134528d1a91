"""Labels' names as examples: which of them, whether they tell, and what a run on contrast does with them."""

from functools import partial
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sgg_core import trainer
from sgg_core.objective import Objective
from sgg_core.plan import make_plan
from sgg_core.reporting import Notice, SilentReporter, StepMetrics
from sgg_core.shapes import ClassificationExample
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.label_names import NAMELESS, Names, label_names, nearness, with_names
from sgg_core.tasks.pooled_head import PooledHead

train = partial(trainer.train, with_documents=False)  # nobody reads them here


def units(count, seed, width=4):
    raw = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(raw, dim=-1)


def naive(examples, gold, names, named):
    labels = sorted(set(gold))

    def between(label, other):
        ours = [x for x, own in zip(examples, gold, strict=True) if own == label]
        theirs = [n for n, own in zip(names, named, strict=True) if own == other]
        return fmean(float(x @ n) for x in ours for n in theirs)

    own = fmean(between(label, label) for label in labels)
    others = [between(label, other) for label in labels for other in labels if label != other]
    return own - (fmean(others) if others else 0.0)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(0, 99))
def test_nearness_is_that_of_a_loop_over_pairs(gold, seed):
    examples, names, named = units(len(gold), seed), units(6, seed + 1), [0, 1, 2, 0, 1, 2]
    found = nearness(examples, torch.tensor(gold), names, torch.tensor(named))
    assert found == pytest.approx(naive(examples, gold, names, named), abs=1e-12)


def test_a_name_that_is_near_to_everything_gains_nothing_by_it_however_many_examples_its_label_has():
    examples, gold = torch.tensor([[1.0, 0.0]] * 6), torch.tensor([0, 0, 0, 0, 0, 1])
    names = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert nearness(examples, gold, names, torch.tensor([0, 1])) == pytest.approx(0.0)


def test_a_name_is_said_alone_and_in_a_sentence_with_spaces_for_underscores(encoder):
    task = PooledHead(encoder, ("card_lost", "good"), 512, seed=0)
    texts = [("card lost", 0), ("good", 1), ("It was card lost.", 0), ("It was good.", 1)]
    expected = task.encode([ClassificationExample(text, task.labels[label]) for text, label in texts])
    names = label_names(task)
    assert [(item.ids, item.label) for item in names] == [(item.ids, item.label) for item in expected]
    only = task.encode([ClassificationExample("fine", "good")])
    assert with_names(only, names) == [*only, names[1], names[3]]
    assert with_names(only, ()) == only


def test_names_tell_where_texts_say_them_and_not_where_they_say_the_others(sharp):
    task = PooledHead(sharp("encoder"), ("bad", "good"), 512, seed=0)
    right = [("a good day", "good"), ("good", "good"), ("a bad day", "bad"), ("so bad", "bad")]
    swapped = [(text, "bad" if label == "good" else "good") for text, label in right]
    told = [Names(task, task.encode([ClassificationExample(*row) for row in rows])).tell() for rows in (right, swapped)]
    assert told == [True, False]


def objective_for(base, examples, spec):
    with torch.no_grad():
        task = make_task(spec, base, examples)
    target = TaskData(task, encoded(task, examples))
    return Objective(target, {}, make_plan(spec, "encoder", *target.sizes), 0)


def fits(monkeypatch):
    """The examples that heads are fitted to from now on."""
    fit, fitted = PooledHead.fit, []

    def noted(task, items, features):
        fitted.append(items)
        return fit(task, items, features)

    monkeypatch.setattr(PooledHead, "fit", noted)
    return fitted


def test_each_batch_of_contrast_has_the_names_of_its_labels_and_the_head_is_fitted_to_them(
    encoder, training, spec_for, monkeypatch
):
    spec = spec_for(encoder, task={"objective": "contrast", "label_names": True})
    objective = objective_for(encoder, training, spec)
    names = label_names(objective.target.task)
    for step in (0, 1, 2):
        assert list(objective.batch(step).items) == [*objective.examples(step), *names]
    fitted = fits(monkeypatch)
    objective.fit_head(2)
    assert fitted == [[*objective.target.items, *names]]


def test_contrast_takes_the_kinship_of_the_names_that_count_and_none_of_others(encoder, file_of, spec_for):
    words = ("bad", "good", "plain")
    three = file_of([{"text": f"text {n // 3} of all", "label": words[n % 3]} for n in range(12)])
    found = {}
    for wish in (True, False):
        spec = spec_for(encoder, task={"objective": "contrast", "label_names": wish})
        objective = objective_for(encoder, three, spec)
        found[wish] = objective.data.task.kinship
    assert torch.equal(found[True], Names(objective.target.task, objective.target.items).kinship())
    assert torch.equal(found[False], torch.eye(3)) and not torch.equal(found[True], found[False])
    spec = spec_for(encoder, task={"objective": "contrast", "label_names": True, "label_kinship": False})
    without = objective_for(encoder, three, spec)
    assert torch.equal(without.data.task.kinship, torch.eye(3)) and without.names


def test_names_of_many_labels_are_examples_of_a_head_that_learns_by_cross_entropy(
    encoder, file_of, spec_for, monkeypatch
):
    many = file_of([{"text": f"{word} {label}", "label": label} for label in "abcdefghi" for word in ("a", "the")])
    objective = objective_for(encoder, many, spec_for(encoder, task={"label_names": True}))
    assert not objective.contrasts
    found = list(objective.batch(1).items)
    shown = {item.label for item in objective.examples(1)}
    assert found[: len(objective.examples(1))] == objective.examples(1)
    assert [item.label for item in found[len(objective.examples(1)) :]] == sorted(shown) * 2
    fitted = fits(monkeypatch)
    objective.probe()
    assert fitted == [[*objective.target.items, *label_names(objective.target.task)]]
    objective.fit_head(3)
    assert len(fitted) == 1  # the head that was trained stays


@pytest.mark.parametrize("task", [{"objective": "cross_entropy"}, {"objective": "contrast", "label_names": False}])
def test_without_contrast_or_when_turned_off_names_do_not_count(task, encoder, training, spec_for):
    objective = objective_for(encoder, training, spec_for(encoder, task=task))
    assert list(objective.batch(1).items) == objective.examples(1)


def test_names_change_what_is_learned_and_are_not_counted_among_the_trained_tokens(
    encoder, training, spec_for, tmp_path, adapter_bytes
):
    tokens = {}
    for wish in (True, False):
        reporter = SilentReporter()
        spec = spec_for(encoder, task={"objective": "contrast", "label_names": wish})
        train(spec, encoder, training, output=tmp_path / str(wish), reporter=reporter)
        tokens[wish] = [message.tokens for message in reporter.messages if isinstance(message, StepMetrics)]
    assert adapter_bytes(tmp_path / "True") != adapter_bytes(tmp_path / "False")
    assert tokens[True] == tokens[False] != []


def test_names_that_say_nothing_are_left_out_and_the_user_is_told(encoder, file_of, spec_for, tmp_path, adapter_bytes):
    rows = [("a good day", "bad"), ("good", "bad"), ("so good", "bad"), ("a bad day", "good"), ("bad bad", "good")]
    swapped = file_of([{"text": text, "label": label} for text, label in rows])
    notices = {}
    for wish in ("auto", False):
        reporter = SilentReporter()
        spec = spec_for(encoder, task={"objective": "contrast", "label_names": wish})
        train(spec, encoder, swapped, output=Path(tmp_path / str(wish)), reporter=reporter)
        notices[wish] = [message.message for message in reporter.messages if isinstance(message, Notice)]
    assert (notices["auto"].count(NAMELESS), notices[False].count(NAMELESS)) == (1, 0)
    assert adapter_bytes(tmp_path / "auto") == adapter_bytes(tmp_path / "False")
