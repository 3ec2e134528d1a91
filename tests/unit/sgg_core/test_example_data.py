"""The data sets in examples/: readable, balanced, varied, and without leaks between training and validation."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sgg_core.examples import check_training, check_validation, read_examples

EXAMPLES = Path(__file__).parents[3] / "examples"
TRAIN = read_examples(EXAMPLES / "support_tickets.train.jsonl")
VALID = read_examples(EXAMPLES / "support_tickets.valid.jsonl")
NEW = [json.loads(line) for line in (EXAMPLES / "support_tickets.new.jsonl").read_text(encoding="utf-8").splitlines()]
LABELS = ("account access", "billing", "bug report", "feature request", "returns", "shipping")


def words(text):
    return re.findall(r"[\w']+", text.lower())


def runs_of_five(text):
    tokens = words(text)
    return {tuple(tokens[start : start + 5]) for start in range(len(tokens) - 4)}


def similarity(one, other):
    return len(one & other) / len(one | other)


def test_the_tickets_fit_together_and_are_balanced():
    check_training(TRAIN)
    check_validation(TRAIN, VALID)
    assert TRAIN.labels == VALID.labels == LABELS
    assert set(Counter(example.label for example in TRAIN.examples).values()) == {16}
    assert set(Counter(example.label for example in VALID.examples).values()) == {30}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda path: path.name)
def test_no_file_has_a_problem_or_a_warning(path):
    if path.name != "support_tickets.new.jsonl":
        assert read_examples(path).warnings == ()


def test_no_ticket_is_a_near_duplicate_of_another():
    texts = [example.text for example in (*TRAIN.examples, *VALID.examples)] + [row["text"] for row in NEW]
    prepared = [(text, set(words(text)), runs_of_five(text)) for text in texts]
    for (text, vocabulary, runs), (other, others, other_runs) in itertools.combinations(prepared, 2):
        assert not runs & other_runs, (text, other)
        assert similarity(vocabulary, others) < 0.4, (text, other)


def test_the_tickets_vary_in_length():
    lengths = [len(example.text.split()) for example in (*TRAIN.examples, *VALID.examples)]
    assert min(lengths) >= 8 and max(lengths) <= 60
    assert sum(length <= 11 for length in lengths) >= 15
    assert sum(length >= 40 for length in lengths) >= 15


def test_the_order_tells_nothing_about_the_label():
    for data in (TRAIN, VALID):
        half = Counter(example.label for example in data.examples[: len(data) // 2])
        assert set(half) == set(LABELS)


def test_the_sft_files_are_of_their_kinds_and_show_weights():
    chats = read_examples(EXAMPLES / "support_replies.chat.jsonl")
    completions = read_examples(EXAMPLES / "ticket_subjects.completion.jsonl")
    assert (chats.kind, len(chats)) == ("chat", 12)
    assert (completions.kind, len(completions)) == ("completion", 12)
    assert any(message.weight == 0 for chat in chats.examples for message in chat.messages)
