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
