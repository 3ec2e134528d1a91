"""Prompts as texts, chats as pieces, and groups of examples of like length."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sgg_core.encoding import (
    Encoded,
    as_text,
    chat_segments,
    common_prefix,
    completion_prompt,
    label_messages,
    label_prompt,
    opening,
    padded,
    passes,
    rendered,
    token_ids,
)
from sgg_core.shapes import ChatMessage, CompletionExample
from sgg_core.tasks.text import TextTask

rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=40)
turns = st.lists(
    st.builds(
        ChatMessage,
        st.sampled_from(["system", "user", "assistant"]),
        st.text("ab ü緑\n", min_size=1, max_size=8),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=6,
).filter(lambda chat: chat[0].role != "assistant" or not chat[0].weight)


@given(rows)
def test_the_common_prefix_is_the_longest_beginning_of_all_rows(rows):
    size = common_prefix(rows)
    assert all(row[:size] == rows[0][:size] for row in rows)
    longer = {tuple(row[: size + 1]) for row in rows}
    assert len(longer) > 1 or any(len(row) == size for row in rows)


@given(rows)
def test_padding_goes_to_the_right_of_each_row(rows):
    found = padded(rows, 9, torch.device("cpu"))
    assert found.shape == (len(rows), max(map(len, rows)))
    for row, ids in zip(rows, found.tolist(), strict=True):
        assert ids == row + [9] * (len(ids) - len(row))


@given(rows, st.integers(1, 300), st.integers(0, 50), st.booleans())
def test_passes_hold_every_example_once_shortest_first_and_within_the_budget(rows, budget, extra, packed):
    prefix = common_prefix(rows) if packed else None
    items = [Encoded(tuple(row)) for row in rows]
    groups = list(passes(items, budget, prefix, extra))
    order = [index for group in groups for index in group]
    assert sorted(order) == list(range(len(rows)))
    lengths = [len(rows[index]) for index in order]
    assert lengths == sorted(lengths)
    for group in groups:
        own = [len(rows[index]) - (prefix or 0) + extra for index in group]
        tokens = len(group) * max(own) if prefix is None else prefix + sum(own)
        assert tokens <= budget or len(group) == 1


@given(rows, st.integers(1, 300))
def test_no_two_neighbouring_passes_would_have_fitted_into_one(rows, budget):
    groups = list(passes([Encoded(tuple(row)) for row in rows], budget))
    for group, following in pairwise(groups):
        assert (len(group) + 1) * len(rows[following[0]]) > budget


def test_nothing_to_do_is_no_pass():
    assert list(passes([], 512)) == []


def test_a_label_prompt_is_the_task_and_its_labels_unless_these_are_too_many():
    assert label_prompt("Sort mail.", ["a", "b"]) == "Sort mail.\nLabels: a, b."
    assert label_prompt(None, ["a", "b"]) == "Choose the label that fits the text.\nLabels: a, b."
    assert label_prompt("Sort mail.", ["a", "b"], list_labels=False) == "Sort mail."


def test_one_text_or_two_are_shown_after_the_prompt():
    assert label_messages("P", "one", None) == [{"role": "user", "content": "P\n\nText: one"}]
    both = "P\n\nFirst text: one\nSecond text: two"
    assert label_messages("P", "one", "two") == [{"role": "user", "content": both}]


def test_a_chat_is_shown_by_the_template_or_in_plain_words(causal, encoder):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    shown = "<|start|>user\nHi<|end|>\n<|start|>assistant\nHo<|end|>\n"
    assert rendered(causal.tokenizer, chat, for_answer=False) == shown
    assert rendered(causal.tokenizer, chat, for_answer=True) == shown + "<|start|>assistant\n"
    assert encoder.tokenizer.chat_template is None
    assert rendered(encoder.tokenizer, chat, for_answer=False) == "User: Hi\nAssistant: Ho\n"
    assert rendered(encoder.tokenizer, chat, for_answer=True) == "User: Hi\nAssistant: Ho\nAssistant:"


def test_a_token_that_a_tokenizer_puts_before_each_text_is_before_prompts_once(causal):
    tokenizer = copy.deepcopy(causal.tokenizer)
    assert opening(tokenizer) == "" and completion_prompt(tokenizer, "hi") == "hi"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", start)]
    )
    hi = token_ids(tokenizer, "hi")
    assert hi == causal.tokenizer("hi").input_ids and tokenizer("hi").input_ids == [start, *hi]
    assert token_ids(tokenizer, completion_prompt(tokenizer, "hi")) == [start, *hi]
    assert start not in token_ids(tokenizer, completion_prompt(tokenizer, "hi"))[1:]
    chat = [{"role": "user", "content": "Hi"}]
    written = token_ids(tokenizer, rendered(tokenizer, chat, for_answer=True))
    assert written.count(start) == 2 and written[0] == start  # by the template, once for each turn
    tokenizer.chat_template = None
    plain = token_ids(tokenizer, rendered(tokenizer, chat, for_answer=True))
    assert plain == tokenizer("User: Hi\nAssistant:").input_ids and plain[0] == start
    task = TextTask(replace(causal, tokenizer=tokenizer), 64)
    (item,) = task.encode([CompletionExample("hi", " ho")])
    assert item.ids[: 1 + len(hi)] == (start, *hi) and item.targets[0][0] == len(hi)


def test_after_the_opening_a_text_begins_as_the_tokenizer_begins_it():
    """Some tokenizers see a space before a text, and none after a special token that is written into it."""
    inner = Tokenizer(WordLevel({"<s>": 0, "<unk>": 1, "\u2581hi": 2, "hi": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = Metaspace(prepend_scheme="first")
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    assert tokenizer("hi").input_ids == [0, 2] != tokenizer("<s>hi", add_special_tokens=False).input_ids
    assert token_ids(tokenizer, completion_prompt(tokenizer, "hi")) == [0, 2]


def test_a_template_that_writes_todays_date_writes_the_same_one_for_ever(causal, monkeypatch):
    template = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    template += "{{ date_string }}{{ messages[0].content }}"
    monkeypatch.setattr(causal.tokenizer, "chat_template", template)
    assert rendered(causal.tokenizer, [{"role": "user", "content": ": hi"}], for_answer=True) == "26 Jul 2024: hi"


@given(turns)
def test_the_pieces_of_a_chat_are_the_whole_chat_and_only_answers_are_trained(causal, chat):
    plain = [{"role": message.role, "content": message.content} for message in chat]
    pieces = chat_segments(causal.tokenizer, chat)
    assert "".join(text for text, _ in pieces) == rendered(causal.tokenizer, plain, for_answer=False)
    trained = [f"{m.content}<|end|>\n" for m in chat if m.role == "assistant" and m.weight]
    assert [text for text, in_loss in pieces if in_loss] == trained


@given(turns)
def test_pieces_tokenized_one_by_one_are_the_tokens_of_the_whole(causal, chat):
    pieces = chat_segments(causal.tokenizer, chat)
    whole = "".join(text for text, _ in pieces)
    together = [token for text, _ in pieces for token in token_ids(causal.tokenizer, text)]
    assert together == token_ids(causal.tokenizer, whole)


@pytest.mark.parametrize("text", ["", "plain", "two\nlines", "größe 緑 🙂"])
def test_tokens_are_those_of_the_text_alone_and_give_it_back(causal, text):
    ids = token_ids(causal.tokenizer, text)
    assert len(ids) == len(text.encode())
    assert causal.tokenizer.decode(ids) == text


special = st.lists(st.sampled_from(["<|end|>", "<|start|>", "<|", "end|>", "<", "a", " "]), max_size=6).map("".join)


@given(special)
def test_the_name_of_a_special_token_in_a_users_text_is_only_letters(causal, text):
    expected = causal.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert token_ids(causal.tokenizer, as_text(causal.tokenizer, text)) == expected


@given(special)
def test_a_chat_keeps_the_templates_own_special_tokens_and_takes_none_from_its_texts(causal, content):
    tokenizer = causal.tokenizer
    chat = [ChatMessage("user", content), ChatMessage("assistant", content)]
    ids = [token for text, _ in chat_segments(tokenizer, chat) for token in token_ids(tokenizer, text)]
    turns = "".join(f"<|start|>{message.role}\n{content}<|end|>\n" for message in chat)
    assert tokenizer.decode(ids) == turns
    assert [token for token in ids if token in tokenizer.all_special_ids] == 2 * tokenizer.convert_tokens_to_ids(
        ["<|start|>", "<|end|>"]
    )


def test_a_text_without_names_of_special_tokens_is_left_as_it_is(causal):
    assert as_text(causal.tokenizer, "plain <b>text</b> |end|") == "plain <b>text</b> |end|"
