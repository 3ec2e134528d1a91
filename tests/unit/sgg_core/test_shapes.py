"""From rows to examples: accepted shapes, and a named reason for everything else."""

import difflib
import json

import pytest

from sgg_core.errors import DataError
from sgg_core.examples import parse_examples
from sgg_core.parsing import MAX_PROBLEMS
from sgg_core.shapes import ChatExample, ChatMessage, ClassificationExample, CompletionExample, Limits


def parsed(*rows, limits=Limits()):  # noqa: B008  (frozen)
    return parse_examples("\n".join(json.dumps(row) for row in rows).encode(), "data.jsonl", limits)


def problems_of(*rows, limits=Limits()):  # noqa: B008  (frozen)
    with pytest.raises(DataError) as caught:
        parsed(*rows, limits=limits)
    for problem in caught.value.problems:
        assert problem.reason and problem.remedy
    return [(problem.line, problem.field) for problem in caught.value.problems]


def told(*rows):
    with pytest.raises(DataError) as caught:
        parsed(*rows)
    return str(caught.value)


ASK = {"role": "user", "content": "Where is my parcel?"}
ANSWER = {"role": "assistant", "content": "On its way."}


def test_every_shape_of_the_three_kinds_is_read():
    texts = parsed({"text": "a", "label": "x"}, {"text": "b", "text_pair": "c", "label": "y"})
    assert texts.kind == "classification"
    assert texts.examples == (ClassificationExample("a", "x"), ClassificationExample("b", "y", "c"))
    assert parsed({"prompt": "p", "completion": " c"}).examples == (CompletionExample("p", " c"),)
    chat = parsed({"messages": [ASK, ANSWER | {"weight": 0}, ASK, ANSWER | {"weight": 1}]})
    assert chat.kind == "chat"
    assert chat.examples == (
        ChatExample(
            (
                ChatMessage("user", "Where is my parcel?"),
                ChatMessage("assistant", "On its way.", 0),
                ChatMessage("user", "Where is my parcel?"),
                ChatMessage("assistant", "On its way.", 1),
            )
        ),
    )


def test_labels_are_trimmed_and_whole_numbers_are_the_same_label_in_json_and_csv():
    from_json = parsed({"text": "a", "label": 1}, {"text": "b", "label": " 0 "}).labels
    from_csv = parse_examples(b"text,label\na,1\nb,0\n", "data.csv").labels
    assert from_json == from_csv == ("0", "1")


@pytest.mark.parametrize("label", [True, 1.5, None, ["x"], "", "  ", "a\nb", "x" * 201, "\0"])
def test_labels_that_are_no_names_are_refused(label):
    assert problems_of({"text": "fine", "label": label}) == [(1, "label")]


@pytest.mark.parametrize("text", [1, None, "", " \n", "x" * 100_001, "\0", "\ud800"])
def test_texts_that_cannot_be_trained_on_are_refused(text):
    assert problems_of({"text": text, "label": "x"}) == [(1, "text")]
    assert problems_of({"prompt": "p", "completion": text}) == [(1, "completion")]


def test_an_empty_pair_is_no_pair_and_a_wrong_one_an_error():
    csv_rows = parse_examples(b"text,text_pair,label\na,,x\nb,c,y\n", "data.csv").examples
    assert csv_rows == (ClassificationExample("a", "x"), ClassificationExample("b", "y", "c"))
    assert problems_of({"text": "a", "text_pair": 3, "label": "x"}) == [(1, "text_pair")]


def test_wrong_names_get_the_close_one_suggested_and_the_accepted_ones_listed():
    message = told({"sentence": "a", "Label": "x"})
    assert "Did you mean 'label'?" in message
    assert "text + label" in message and "prompt + completion" in message and "messages" in message
    assert problems_of({"text": "a", "labels": "x"}) == [(1, "labels"), (1, "label")]
    assert problems_of({"text": "a", "label": "x", "id": 7}) == [(1, "id")]
    assert problems_of({}) == [(1, None)]


def test_wrong_columns_are_told_once_for_the_header_and_not_for_every_row():
    with pytest.raises(DataError) as caught:
        parse_examples(b"txt,label\na,x\nb,y\nc,z\n", "data.csv")
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(1, "txt"), (1, "text")]
    assert "Did you mean 'text'?" in caught.value.problems[0].remedy


@pytest.mark.parametrize("key", ["tools", "functions", "parallel_tool_calls"])
def test_tool_calls_are_refused_by_name(key):
    assert "Tool calls are not supported" in told({"messages": [ASK, ANSWER], key: [{"name": "f"}]})


def test_messages_that_are_none_are_told_as_what_they_are():
    assert "The list of messages is empty." in told({"messages": []})
    assert "The value null is not a list of messages." in told({"messages": None})


def test_what_openais_clients_write_where_there_is_nothing_is_passed_over():
    nothing = {"refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    nothing["name"] = None
    row = {"messages": [ASK, ANSWER | nothing], "tools": [], "functions": None, "parallel_tool_calls": False}
    assert parsed(row, row | {"parallel_tool_calls": True}).examples == 2 * parsed({"messages": [ASK, ANSWER]}).examples


def test_names_of_speakers_are_refused_by_name_with_the_other_problems_of_a_message():
    named = {"messages": [ASK | {"name": "Ann", "mood": "fine"}, ANSWER]}
    assert problems_of(named) == [(1, "messages[0].name"), (1, "messages[0].mood")]
    assert "Names of speakers are not supported. Leave `name` out." in told(named)


def test_parallel_tool_calls_beside_tools_are_refused():
    assert problems_of({"messages": [ASK, ANSWER], "tools": [{}], "parallel_tool_calls": True}) == [
        (1, "parallel_tool_calls"),
        (1, "tools"),
    ]


def test_a_turn_that_calls_a_tool_and_says_nothing_is_told_what_it_is():
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    for turn in (call, call | {"content": None}):
        assert problems_of({"messages": [ASK, turn, ANSWER]}) == [(1, "messages[1].tool_calls")]


def test_preference_rows_are_refused_by_name():
    assert "Preference pairs are not supported" in told(
        {"input": {"messages": [ASK]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
    )


def test_the_prompt_of_a_preference_pair_is_no_unknown_field_of_its_own():
    row = {"input": {"messages": [ASK]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
    assert problems_of(row, row) == [(line, name) for line in (1, 2) for name in sorted(row.keys() - {"input"})]
    assert problems_of({"input": "a", "label": "x"})[0] == (1, "input")


@pytest.mark.parametrize("extra", [{"reference_answer": "4"}, {"label": "even"}, {"item": {"n": 4}, "tools": [{}]}])
def test_reinforcement_rows_are_told_what_they_are_once_a_line(extra):
    row = {"messages": [{"role": "developer", "content": "Count."}, ASK]} | extra
    assert problems_of(row, row) == [(1, None), (2, None)]
    assert "This looks like reinforcement fine-tuning data, which is not supported." in told(row)


def test_an_unknown_field_beside_an_answered_chat_is_still_named():
    assert problems_of({"messages": [ASK, ANSWER], "topic": "parcels"}) == [(1, "topic")]
    assert problems_of({"messages": [ASK], "tools": [{"type": "function"}]}) == [(1, "tools"), (1, "messages")]
    assert problems_of({"messages": "hello", "topic": "parcels"}) == [(1, "topic"), (1, "messages")]


@pytest.mark.parametrize(
    ("kind", "what"), [("image_url", "Images"), ("input_audio", "Recordings"), ("video", "Parts other than text")]
)
def test_parts_that_are_no_text_are_refused_by_what_they_are(kind, what):
    parts = [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {"url": "https://example.com/a.png"}}]
    row = {"messages": [{"role": "user", "content": parts}, ANSWER]}
    assert problems_of(row) == [(1, "messages[0].content")]
    assert f"{what} are not supported: a part has the type '{kind}'." in told(row)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ([ASK], "messages"),
        ([ASK, ANSWER | {"weight": 0}], "messages"),
        ([ASK, "hello"], "messages[1]"),
        ([ASK, {"role": "assistant"}], "messages[1]"),
        ([ASK, {"role": "tool", "content": "x"}, ANSWER], "messages[1].role"),
        ([ASK | {"weight": 1}, ANSWER], "messages[0].weight"),
        ([ASK, ANSWER | {"weight": 0.5}], "messages[1].weight"),
        ([ASK, ANSWER | {"weight": True}], "messages[1].weight"),
        ([ASK, ANSWER | {"content": None}], "messages[1].content"),
        ([{"role": "user", "content": []}, ANSWER], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "text": "x"}]}, ANSWER], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}, ANSWER], "messages[0].content"),
        ([ASK, ANSWER | {"tool_calls": [{"id": "1"}]}], "messages[1].tool_calls"),
        ([ASK | {"name": "Ann"}, ANSWER], "messages[0].name"),
    ],
)
def test_a_wrong_message_is_named_by_its_place(messages, field):
    assert problems_of({"messages": messages}) == [(1, field)]


def test_openais_other_ways_to_write_a_message_are_read():
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "my parcel?"}]
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}, ANSWER]
    (example,) = parsed({"messages": turns}).examples
    assert [(turn.role, turn.content) for turn in example.messages] == [
        ("system", "Be brief."),
        ("user", "Where is my parcel?"),
        ("assistant", ANSWER["content"]),
    ]


def test_a_chat_cannot_come_from_csv_and_the_remedy_says_jsonl():
    with pytest.raises(DataError, match="JSONL"):
        parse_examples(b"messages\nhello\n", "data.csv")


def test_limits_hold_exactly():
    limits = Limits(max_rows=2, max_field_chars=5, max_labels=2, max_label_chars=3)
    rows = [{"text": "12345", "label": "abc"}, {"text": "54321", "label": "abd"}]
    assert len(parsed(*rows, limits=limits)) == 2
    assert problems_of(*rows, {"text": "x", "label": "abc"}, limits=limits) == [(3, None)]
    assert problems_of({"text": "123456", "label": "abcd"}, limits=limits) == [(1, "text"), (1, "label")]
    three_labels = [{"text": "x", "label": label} for label in "abc"]
    assert problems_of(*three_labels, limits=Limits(max_labels=2)) == [(3, "label")]


def test_no_meant_name_is_looked_for_once_there_are_problems_enough(monkeypatch):
    looked = []
    find = difflib.get_close_matches
    monkeypatch.setattr(
        difflib, "get_close_matches", lambda name, *rest, **more: looked.append(name) or find(name, *rest)
    )
    problems = problems_of({f"name{number}": "x" for number in range(MAX_PROBLEMS + 500)})
    assert len(problems) == MAX_PROBLEMS == len(looked)
