"""What OpenAI's clients get when they try a model out: whole texts and streams, of chats and of prompts."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from api.testing import ApiServer

from .conftest import Client

MODEL = "tiny-causal"
TURNS = [{"role": "user", "content": "say one"}]
FEW: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def server(answering: ApiServer) -> ApiServer:
    return answering


def test_a_chat_is_answered_whole_and_as_a_stream(client: Client) -> None:
    whole = client.call("chat.completions.create", messages=TURNS, **FEW)
    (choice,) = whole.choices
    assert (whole.object, choice.message.role, choice.finish_reason) == ("chat.completion", "assistant", "length")
    assert whole.usage.completion_tokens == 6
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 6
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.streamed("chat.completions.create", messages=TURNS, **FEW, **options))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_an_answers_message_is_sent_back_as_the_chat_goes_on(client: Client) -> None:
    said = client.call("chat.completions.create", messages=TURNS, **FEW).choices[0].message
    nulls = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "tool_calls", "name"))
    empty = {"annotations": [], "tool_calls": [], "refusal": "", "name": ""}
    for sent in (said, said.model_dump(), said.model_dump() | nulls, said.model_dump() | empty):
        whole = client.call("chat.completions.create", messages=[*TURNS, sent, *TURNS], **FEW)
        assert whole.choices[0].message.role == "assistant"
    for name, value in {"refusal": "No.", "tool_calls": [{"id": "x"}], "audio": {"id": "x"}}.items():
        with pytest.raises(openai.BadRequestError) as refused:
            client.call("chat.completions.create", messages=[*TURNS, said.model_dump() | {name: value}], **FEW)
        assert refused.value.param == f"messages.1.{name}"


def test_a_prompt_goes_on_whole_and_as_a_stream(client: Client) -> None:
    whole = client.call("completions.create", prompt="number 1:", **FEW)
    (choice,) = whole.choices
    assert whole.object == "text_completion" and choice.finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens <= 6
    listed = client.call("completions.create", prompt=["number 1:"], **FEW)  # as LangChain asks
    assert [(each.index, each.text) for each in listed.choices] == [(0, choice.text)]
    chunks = list(client.streamed("completions.create", prompt="number 1:", stream=True, **FEW))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == choice.text


def test_what_cannot_be_tried_is_one_clear_error(client: Client) -> None:
    with pytest.raises(openai.NotFoundError):
        client.call("chat.completions.create", messages=TURNS, **FEW | {"model": "ft:none:p::x"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.call("completions.create", prompt="a " * 5000, **FEW)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        client.call("chat.completions.create", messages=TURNS, **FEW | {"temperature": 9})
    assert refused.value.param == "temperature"
    for prompts in (["one", "two"], [], [[1, 2]], [1, 2]):
        with pytest.raises(openai.BadRequestError, match="One prompt a request") as several:
            client.call("completions.create", prompt=prompts, **FEW)
        assert several.value.param == "prompt"
