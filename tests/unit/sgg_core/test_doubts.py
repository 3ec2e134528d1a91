"""Suspicious labels: the closed forms are what they stand for, and planted wrong labels are found."""

from __future__ import annotations

import pytest
import torch

from sgg_core.doubts import NAMING, _centred, agreement, doubts, left_one_out, look, named, scores, told
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tiny import tiny_base


def clusters(per_label: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of labels that lie apart, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    gold = torch.arange(labels).repeat_interleave(per_label)
    centres = torch.eye(labels, 12) * 4
    return centres[gold] + torch.randn(len(gold), 12, generator=generator), gold


def test_left_one_out_is_what_refitting_without_each_example_gives() -> None:
    features, gold = clusters(5, 3)
    features = _centred(features)
    found = left_one_out(features, gold, 3, penalty=0.7)
    target = torch.nn.functional.one_hot(gold, 3).double()
    for index in range(len(gold)):
        kept = [other for other in range(len(gold)) if other != index]
        mean, prior = features[kept].mean(0), target[kept].mean(0)
        inputs = features[kept] - mean
        weights = torch.linalg.solve(
            inputs.T @ inputs + 0.7 * torch.eye(12, dtype=torch.float64), inputs.T @ (target[kept] - prior)
        )
        expected = (features[index] - mean) @ weights + prior
        assert torch.allclose(found[index], expected, atol=1e-9)


def test_agreement_is_the_cosine_of_gradients_of_a_new_last_layer() -> None:
    features, gold = clusters(4, 3)
    features = _centred(features)
    probabilities = torch.full((3,), 1 / 3, dtype=torch.float64)
    gradients = torch.stack(
        [
            torch.outer(probabilities - torch.nn.functional.one_hot(label, 3), feature).flatten()
            for feature, label in zip(features, gold, strict=True)
        ]
    )
    found = agreement(features, gold)
    for index in range(len(gold)):
        others = [other for other in range(len(gold)) if other != index and gold[other] == gold[index]]
        expected = torch.cosine_similarity(gradients[index], gradients[others].mean(0), dim=0)
        assert float(found[index]) == pytest.approx(float(expected))


def test_planted_wrong_labels_come_first_with_a_reason() -> None:
    features, gold = clusters(20, 4, seed=1)
    wrong = {3: 2, 25: 0, 47: 3}
    given = gold.clone()
    for index, label in wrong.items():
        given[index] = label
    names = ("a", "b", "c", "d")
    ranked = told(look([features], None, given, 4), given, names, lines=range(1, 81))
    assert {doubt.line - 1 for doubt in ranked[:3]} == set(wrong)
    for doubt in ranked[:3]:
        assert doubt.predicted_label == names[gold[doubt.line - 1]] != doubt.label
        assert f"speak for {doubt.predicted_label!r}" in doubt.reason
        assert doubt.suspicion > 0.95 and doubt.gradient_agreement is not None and doubt.gradient_agreement < 0
    suspicions = [doubt.suspicion for doubt in ranked]
    assert suspicions == sorted(suspicions, reverse=True) and 0 <= suspicions[-1] <= suspicions[0] <= 1
    assert ranked[-1].reason.startswith("Nothing speaks against")


def test_names_are_heard_where_they_tell_the_labels_and_not_where_they_do_not() -> None:
    features, gold = clusters(20, 2, seed=1)
    known = torch.nn.functional.one_hot(gold, 2) * 4.0
    heard = look([features], known.log_softmax(-1), gold, 2, by_name=True)
    chance = look([features], known[torch.arange(40) % 20 * 2].log_softmax(-1), gold, 2, by_name=True)
    assert heard.own_word is not None and "own word" in scores(heard, gold)
    assert chance.own_word is None and "own word" not in scores(chance, gold)
    given = gold.clone()
    given[3] = 1
    first, *_ = told(look([features], known.log_softmax(-1), given, 2, by_name=True), given, ("a", "b"), range(1, 41))
    assert first.line == 4 and "the base model finds the text more like the name 'a'" in first.reason


def test_several_probes_weigh_as_much_as_two() -> None:
    features, gold = clusters(10, 3)
    one, three = (look([features] * count, None, gold, 3) for count in (2, 3))
    sums = [sum(each for name, each in scores(views, gold).items() if "probe" in name) for views in (one, three)]
    assert torch.allclose(sums[0], sums[1])


def test_an_encoder_says_the_label_whose_name_is_most_like_the_text() -> None:
    task = PooledHead(tiny_base("encoder"), ("bad", "good"), 64, 0)
    texts = [ClassificationExample(naming.format(label), label) for label in task.labels for naming in NAMING]
    with torch.no_grad():
        features = task.features(task.encode(texts))
        found = named(task, features)
    likeness = (features @ features.T).view(8, 2, 4).mean(-1)
    assert torch.allclose(found, (20.0 * likeness).log_softmax(-1), atol=1e-5)


def test_the_only_example_of_a_label_is_not_suspected() -> None:
    features, gold = clusters(6, 2)
    gold[0] = 2
    ranked = told(look([features], None, gold, 3), gold, ("a", "b", "c"), lines=range(12))
    assert (ranked[-1].line, ranked[-1].suspicion, ranked[-1].gradient_agreement) == (0, 0.0, None)
    assert "only example of its label" in ranked[-1].reason


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_every_example_of_a_task_is_judged_once_and_alike_each_time(kind: str) -> None:
    base = tiny_base(kind)  # type: ignore[arg-type]
    labels = ("bad", "good")
    examples = [ClassificationExample(f"number {n} is {labels[n % 2]}", labels[n % 2]) for n in range(12)]
    task = LabelWords(base, labels, None, 128) if kind == "causal" else PooledHead(base, labels, 64, 0)
    items = task.encode(examples)
    found = doubts(task, items, range(1, 13))
    assert sorted(doubt.line for doubt in found) == list(range(1, 13))
    assert found == doubts(task, items, range(1, 13))
