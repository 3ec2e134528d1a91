"""From a request's body to a trial: what is asked for and not offered is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from api.errors import InvalidRequestError
from api.trials.schemas import MOST_CHARACTERS, ChatIn, ClassificationIn, CompletionIn
from api.validation import RequestProblem, broken_texts, problems_of_model

Request = TypeVar("Request", ChatIn, CompletionIn, ClassificationIn)

CHAT_TOKENS, COMPLETION_TOKENS = 256, 16  # written unless the request says how many; the second one is OpenAI's
# OpenAI's parameters that are not offered, each with the value that asks for nothing, which is accepted like null.
NOT_OFFERED: dict[str, Any] = {
    **{"n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": False, "top_logprobs": 0, "logit_bias": {}},
    **{"frequency_penalty": 0, "presence_penalty": 0, "response_format": {"type": "text"}, "modalities": ["text"]},
    **{"tools": [], "tool_choice": "none", "functions": [], "function_call": "none", "parallel_tool_calls": None},
    **{"store": False, "metadata": {}, "user": None, "service_tier": None, "reasoning_effort": None, "audio": None},
    **{"prediction": None, "web_search_options": None, "verbosity": None, "safety_identifier": None},
    **{"prompt_cache_key": None, "prompt_cache_retention": None, "moderation": None},
}


def read_request(body: dict[str, Any], kind: type[Request], most_tokens: int) -> Request:
    """Read a body. Raises InvalidRequestError with everything that is wrong with it."""
    problems = [*broken_texts(body), *_not_offered(body, kind), *_other_than_one_prompt(body, kind)]
    named = {problem.param for problem in problems}
    known = {name: value for name, value in body.items() if name in kind.model_fields or name not in NOT_OFFERED}
    try:
        request = kind.model_validate(known)
    except ValidationError as error:
        problems += [each for each in problems_of_model(error, kind) if each.param not in named]
        raise InvalidRequestError(problems) from None
    problems += _beyond_limits(request, most_tokens)
    if problems:
        raise InvalidRequestError(problems)
    return request


def tokens_to_write(request: ChatIn | CompletionIn, most: int) -> int:
    """How many tokens the request asks for."""
    if isinstance(request, ChatIn):
        return request.max_completion_tokens or request.max_tokens or min(CHAT_TOKENS, most)
    return request.max_tokens or min(COMPLETION_TOKENS, most)


def _not_offered(body: dict[str, Any], kind: type[Request]) -> Iterator[RequestProblem]:
    for name, value in body.items():
        if name in kind.model_fields or name not in NOT_OFFERED or value is None or value == NOT_OFFERED[name]:
            continue
        message = "This parameter of OpenAI's API is not supported for trials here. Leave it out."
        yield RequestProblem(name, "unsupported_parameter", message)


def _other_than_one_prompt(body: dict[str, Any], kind: type[Request]) -> Iterator[RequestProblem]:
    prompt = body.get("prompt")
    if kind is CompletionIn and isinstance(prompt, list) and (len(prompt) != 1 or not isinstance(prompt[0], str)):
        message = "One prompt a request: send one text, or a list with one text in it."
        yield RequestProblem("prompt", "invalid_value", message)


def _beyond_limits(request: ChatIn | CompletionIn | ClassificationIn, most_tokens: int) -> Iterator[RequestProblem]:
    for name in ("max_tokens", "max_completion_tokens"):
        asked = getattr(request, name, None)
        if asked is not None and asked > most_tokens:
            message = f"A trial may write at most {most_tokens:,} tokens. Ask for fewer."
            yield RequestProblem(name, "invalid_value", message)
    if request.characters() > MOST_CHARACTERS:
        message = (
            f"The texts have {request.characters():,} characters; at most {MOST_CHARACTERS:,} may be sent. Send less."
        )
        param = {ChatIn: "messages", CompletionIn: "prompt", ClassificationIn: "input"}[type(request)]
        yield RequestProblem(param, "invalid_value", message)
    if not isinstance(request, ClassificationIn) and request.stream_options and not request.stream:
        message = "It has an effect only with `stream: true`. Set that, or leave it out."
        yield RequestProblem("stream_options", "conflicting_parameters", message)
    if isinstance(request, ChatIn) and request.max_tokens and request.max_completion_tokens:
        message = "It is the newer name of `max_tokens`, which is also set. Leave one of them out."
        yield RequestProblem("max_completion_tokens", "conflicting_parameters", message)
