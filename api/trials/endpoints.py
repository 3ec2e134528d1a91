"""/v1/chat/completions, /v1/completions, /v1/classifications: try a model out. They are no place to serve from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Request
from fastapi.concurrency import run_in_threadpool

from api.dependencies import ServicesDep, Trier
from api.routers import make_router
from api.trials import service
from api.trials.reading import read_request
from api.trials.schemas import ChatIn, ChatOut, ClassificationIn, ClassificationOut, CompletionIn, CompletionOut

router = make_router("/v1", "trials")
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The text, or with `stream` its pieces.", "content": {"text/event-stream": {}}}
}


@router.post("/chat/completions", response_model=ChatOut, responses=STREAM)
async def create_chat_completion(
    body: Annotated[dict[str, Any], Body(json_schema_extra=ChatIn.model_json_schema())],
    request: Request,
    services: ServicesDep,
    caller: Trier,
) -> Any:
    """Let a model write the assistant's next turn."""
    caller.trail.changes_nothing = True
    asked = await run_in_threadpool(read_request, body, ChatIn, services.settings.max_trial_tokens)
    return await service.write(services, caller, request, asked)


@router.post("/completions", response_model=CompletionOut, responses=STREAM)
async def create_completion(
    body: Annotated[dict[str, Any], Body(json_schema_extra=CompletionIn.model_json_schema())],
    request: Request,
    services: ServicesDep,
    caller: Trier,
) -> Any:
    """Let a model go on after a prompt."""
    caller.trail.changes_nothing = True
    asked = await run_in_threadpool(read_request, body, CompletionIn, services.settings.max_trial_tokens)
    return await service.write(services, caller, request, asked)


@router.post("/classifications", response_model=ClassificationOut)
async def create_classification(
    body: Annotated[dict[str, Any], Body(json_schema_extra=ClassificationIn.model_json_schema())],
    request: Request,
    services: ServicesDep,
    caller: Trier,
) -> Any:
    """Let a model give labels, with probabilities."""
    caller.trail.changes_nothing = True
    asked = await run_in_threadpool(read_request, body, ClassificationIn, services.settings.max_trial_tokens)
    return await service.classify(services, caller, request, asked)
