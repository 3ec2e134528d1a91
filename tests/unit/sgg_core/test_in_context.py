"""In-context prompting: balanced, within the context, in the trained format, and equal to a plain forward pass."""

from collections import Counter
from functools import partial

import pytest
import torch

from sgg_core import trainer
from sgg_core.in_context import InContext, balanced, evaluate_in_context
from sgg_core.reporting import SilentReporter
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.label_words import LabelWords

train = partial(trainer.train, with_documents=False)  # nobody reads them here

LABELS = ("good", "bad", "odd")
SUPPORT = [ClassificationExample(f"text {n} of {label}", label) for label in LABELS for n in range(4)]


def rival_of(base, max_tokens=200):
    return InContext(LabelWords(base, LABELS, "Judge.", max_tokens), SUPPORT, "Judge.", seed=3)


def test_labels_take_turns_and_no_example_comes_twice():
    order = list(balanced(SUPPORT[:-2], seed=1))
    assert Counter(order) == Counter(SUPPORT[:-2])
    assert {example.label for example in order[:3]} == set(LABELS)
    assert order != list(balanced(SUPPORT[:-2], seed=2))


def test_as_many_examples_are_shown_as_leave_room(causal):
    rival = rival_of(causal)
    assert 0 < rival.examples_shown <= len(SUPPORT)
    text = rival._rendered(rival._messages("something", None))
    assert text.count("Label: ") == rival.examples_shown and text.endswith("Label:")
    assert all(len(item.ids) <= rival.max_tokens for item in rival.encode([ClassificationExample("a " * 500, "")]))


def test_the_kept_prefix_changes_no_answer(causal):
    items = SUPPORT[:5]
    told = evaluate_in_context(rival_of(causal), items, lambda: True)
    plain = rival_of(causal)
    with torch.inference_mode():
        encoded = plain.encode(items)
        alone = torch.cat([plain.log_probabilities([item]) for item in encoded])
    assert told.answers.gold_probability == pytest.approx(
        [float(row[item.label].exp()) for row, item in zip(alone, encoded, strict=True)], abs=1e-5
    )
    assert evaluate_in_context(rival_of(causal), items, lambda: False) is None


def test_a_run_tells_what_prompting_would_have_reached(causal, training, validation, spec_for, tmp_path):
    reporter = SilentReporter()
    asked = spec_for(causal, evaluation={"baselines": ["in_context"]})
    train(asked, causal, training, validation=validation, output=tmp_path / "a", reporter=reporter)
    said = [message.message for message in reporter.messages if message.type == "notice"]
    assert any("training examples in its prompt: accuracy" in words for words in said)
    assert '"in_context"' in (tmp_path / "a" / "report.json").read_text()
    train(spec_for(causal), causal, training, validation=validation, output=tmp_path / "b", reporter=SilentReporter())
    assert '"in_context"' not in (tmp_path / "b" / "report.json").read_text()
