"""From answers to what goes over the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from api.errors import ApiError
from api.trials.schemas import (
    ChatChoiceOut,
    ChatIn,
    ChatOut,
    ClassificationOut,
    CompletionChoiceOut,
    CompletionIn,
    CompletionOut,
    LabelledOut,
    ReplyOut,
    UsageOut,
)
from sgg_core.trials import GivenLabels, WrittenText
from sgg_store import ids


def labels(model: str, answer: GivenLabels) -> ClassificationOut:
    """Translate probabilities."""
    results = []
    for index, row in enumerate(answer.probabilities):
        best = max(range(len(row)), key=row.__getitem__)
        probabilities = dict(zip(answer.labels, row, strict=True))
        results.append(LabelledOut(index=index, label=answer.labels[best], probabilities=probabilities))
    return ClassificationOut(
        id=ids.new_id("cls-"),
        created=int(time.time()),
        model=model,
        results=tuple(results),
        usage=UsageOut(prompt_tokens=answer.prompt_tokens, completion_tokens=0, total_tokens=answer.prompt_tokens),
    )


def chat(model: str, answer: WrittenText) -> ChatOut:
    """Translate an assistant's turn."""
    assert answer.finish_reason is not None
    choice = ChatChoiceOut(message=ReplyOut(content=answer.text), finish_reason=answer.finish_reason)
    return ChatOut(
        id=ids.new_id("chatcmpl-"), created=int(time.time()), model=model, choices=(choice,), usage=usage(answer)
    )


def completion(model: str, answer: WrittenText) -> CompletionOut:
    """Translate a completion."""
    assert answer.finish_reason is not None
    choice = CompletionChoiceOut(text=answer.text, finish_reason=answer.finish_reason)
    return CompletionOut(
        id=ids.new_id("cmpl-"), created=int(time.time()), model=model, choices=(choice,), usage=usage(answer)
    )


def usage(answer: WrittenText) -> UsageOut:
    """Count tokens."""
    total = answer.prompt_tokens + answer.completion_tokens
    return UsageOut(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens, total_tokens=total)


def broken_off(error: ApiError) -> str:
    """Say, as JSON, why a stream ends before its text does."""
    return json.dumps({"error": {"message": str(error), "type": "server_error", "param": None, "code": error.code}})


class Chunks:
    """The pieces of one stream, which share an id."""

    def __init__(self, body: ChatIn | CompletionIn) -> None:
        self._is_chat = isinstance(body, ChatIn)
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {
            "id": ids.new_id("chatcmpl-" if self._is_chat else "cmpl-"),
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        self._sent: int | None = None

    def of(self, answer: WrittenText) -> Iterator[str]:
        """Give what is new in `answer`, as JSON."""
        if self._sent is None:
            self._sent = 0
            if self._is_chat:
                yield self._chunk({"role": "assistant", "content": ""}, None)
        new, self._sent = answer.text[self._sent :], max(self._sent, len(answer.text))
        if new:
            yield self._chunk({"content": new} if self._is_chat else new, None)
        if answer.finish_reason is not None:
            yield self._chunk({} if self._is_chat else "", answer.finish_reason)
            if self._with_usage:
                yield json.dumps({**self._head, "choices": [], "usage": usage(answer).model_dump()})

    def _chunk(self, piece: Any, finish_reason: str | None) -> str:
        choice = {"index": 0, "delta" if self._is_chat else "text": piece, "logprobs": None}
        chunk = {**self._head, "choices": [choice | {"finish_reason": finish_reason}]}
        return json.dumps(chunk | ({"usage": None} if self._with_usage else {}))
