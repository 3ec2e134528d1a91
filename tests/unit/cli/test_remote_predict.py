"""Rows that a server's models answer."""

import json

import httpx
import pytest


@pytest.mark.parametrize(
    ("reason", "written", "whole"), [("stop", 3, True), ("length", 256, True), ("length", 3, False)]
)
def test_a_text_that_was_broken_off_is_no_prediction(reason, written, whole, sgg_to):
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": "It is"}}
    usage = {"prompt_tokens": 5, "completion_tokens": written, "total_tokens": 5 + written}
    sgg = sgg_to(lambda request: httpx.Response(200, json={"choices": [choice], "usage": usage}))
    told = sgg("predict", "--model", "base", "--text", "What is it?", "--json")
    if whole:
        assert told.exit_code == 0 and json.loads(told.stdout)["completion"] == "It is"
    else:
        assert told.exit_code == 1 and "ended after 3 tokens" in told.stderr and "SGG_TRIAL_SECONDS" in told.stderr


def labels(request):
    asked = json.loads(request.content)["input"]
    return httpx.Response(200, json={"results": [{"label": "a", "probabilities": {"a": 1.0}} for _ in asked]})


def test_long_rows_are_asked_for_in_requests_that_a_server_takes(sgg_to, tmp_path):
    sizes = []

    def answer(request):
        sizes.append(len(request.content))
        return labels(request)

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": "x" * 100_000, "id": number}) + "\n" for number in range(16)))
    told = sgg_to(answer)("predict", "--model", "ft:m", "--file", str(rows))
    assert told.exit_code == 0, told.stderr
    assert [json.loads(line)["id"] for line in told.stdout.splitlines()] == list(range(16))
    assert len(sizes) == 4 and max(sizes) < 2**20


def test_rows_without_the_field_that_others_have_are_named_before_anything_is_asked(sgg_to, tmp_path):
    sgg = sgg_to(labels)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "x"}\n' * 20 + '\n{"text": ""}\n{"txt": "y"}\n')
    told = sgg("predict", "--model", "ft:m", "--file", str(rows))
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.splitlines() == [
        "error: rows.jsonl has 2 problems:",
        "  line 22, field 'text': The field is missing or empty. Fill in 'text' in every row.",
        "  line 23, field 'text': The field is missing or empty. Fill in 'text' in every row.",
    ]
    rows.write_text('{"txt": "y"}\n')
    told = sgg("predict", "--model", "ft:m", "--file", str(rows))
    assert told.exit_code == 1 and "rows.jsonl" in told.stderr and "(text, messages, prompt)" in told.stderr


def test_that_a_file_has_no_rows_is_said(sgg_to, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n")
    told = sgg_to(labels)("predict", "--model", "ft:m", "--file", str(rows))
    assert (told.exit_code, told.stdout) == (0, "")
    assert told.stderr == "warning: rows.csv has no rows, so there is nothing to answer.\n"
