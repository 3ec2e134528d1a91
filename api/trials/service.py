"""What happens to a trial: find the model, ask the workers, wait for the answer, or pass it on as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, format_sse_event
from sqlalchemy.orm import Session
from starlette.responses import Response

from api.auth import Caller
from api.dependencies import Services
from api.errors import ApiError, InvalidRequestError
from api.trials import presentation
from api.trials.asking import CALLER_GONE, ask_for_one
from api.trials.reading import tokens_to_write
from api.trials.schemas import ChatIn, ChatOut, ClassificationIn, ClassificationOut, CompletionIn, CompletionOut
from api.validation import RequestProblem
from sgg_core.catalogue import BaseModelEntry
from sgg_core.spec import TrainingSpec
from sgg_core.trials import GivenLabels, Trial, TrialAnswer, WrittenText
from sgg_store.checkpoints import ADAPTER_FILES
from sgg_store.errors import ModelNotFoundError, RecordNotFoundError
from sgg_store.files import Files
from sgg_store.jobs import Jobs
from sgg_store.permissions import CheckpointPermissions, is_checkpoint_name
from sgg_store.trials import NewTrial, StoredAdapter, StoredFile


@dataclass(frozen=True, slots=True)
class Target:
    """What a model's name stands for: a base model, and an adapter unless it is bare."""

    entry: BaseModelEntry
    adapter: StoredAdapter | None


async def classify(
    services: Services, caller: Caller, request: Request, body: ClassificationIn
) -> ClassificationOut | Response:
    """Give labels. Raises ModelNotFoundError for the model, InvalidRequestError, and what TrialDesk.answers raises."""
    target = await run_in_threadpool(find_model, services, caller, body.model)
    problem = _labels_problem(target, body)
    if problem is not None:
        raise InvalidRequestError([problem])
    answer = await ask_for_one(services, request, _question(caller, target, body.trial()))
    if answer is None:
        return Response(status_code=CALLER_GONE)
    assert isinstance(answer, GivenLabels)
    return presentation.labels(body.model, answer)


async def write(
    services: Services, caller: Caller, request: Request, body: ChatIn | CompletionIn
) -> ChatOut | CompletionOut | Response:
    """Give a text, or a stream of its pieces. Raises as `classify` does; what goes wrong later ends the stream."""
    target = await run_in_threadpool(find_model, services, caller, body.model)
    if target.entry.kind == "encoder":
        message = f"{body.model!r} is an encoder, which only classifies. Ask it through /v1/classifications."
        raise InvalidRequestError([RequestProblem("model", "wrong_endpoint", message)])
    trial = body.trial(tokens_to_write(body, services.settings.max_trial_tokens))
    if not body.stream:
        answer = await ask_for_one(services, request, _question(caller, target, trial))
        if answer is None:
            return Response(status_code=CALLER_GONE)
        assert isinstance(answer, WrittenText)
        return (
            presentation.chat(body.model, answer)
            if isinstance(body, ChatIn)
            else presentation.completion(body.model, answer)
        )
    answers = services.trials.answers(_question(caller, target, trial, streamed=True), request.is_disconnected)
    first = await anext(answers, None)
    if first is None:
        return Response(status_code=CALLER_GONE)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return EventSourceResponse(_events(presentation.Chunks(body), first, answers), headers=headers)


def find_model(services: Services, caller: Caller, name: str) -> Target:
    """Look a model's name up. Raises ModelNotFoundError, also if the adapter's file is deleted."""
    catalogue = {entry.name: entry for entry in services.catalogue().entries()}
    if name in catalogue:
        return Target(catalogue[name], None)
    with services.database.read() as session:
        find = _of_checkpoint if is_checkpoint_name(name) else _of_job
        base_model, adapter = find(session, caller.project_id, name)
    if base_model not in catalogue:
        raise ModelNotFoundError("base model", base_model)
    return Target(catalogue[base_model], adapter)


def _of_job(session: Session, project_id: str, name: str) -> tuple[str, StoredAdapter]:
    job = Jobs(session).get_by_fine_tuned_model(project_id, name)
    try:
        bundle = Files(session).get(project_id, job.bundle_file_id or "")
    except RecordNotFoundError:  # it may have expired
        raise ModelNotFoundError("adapter of the model", name) from None
    stored = StoredFile(key=bundle.object_key, sha256=bundle.sha256)
    return job.base_model, StoredAdapter(files={bundle.filename: stored})


def _of_checkpoint(session: Session, project_id: str, name: str) -> tuple[str, StoredAdapter]:
    job, checkpoint = CheckpointPermissions(session).usable(project_id, name)
    if not set(ADAPTER_FILES) <= set(checkpoint.manifest):  # it was saved before checkpoints were models
        raise ModelNotFoundError("adapter of the model", name)
    files = {
        file: StoredFile(key=f"{checkpoint.object_prefix}/{file}", sha256=checkpoint.manifest[file]["sha256"])
        for file in ADAPTER_FILES
    }
    task = TrainingSpec.model_validate(job.spec).task
    return job.base_model, StoredAdapter(files=files, description=task.description, max_tokens=task.max_tokens)


def _question(caller: Caller, target: Target, trial: Trial, *, streamed: bool = False) -> NewTrial:
    return NewTrial(
        project_id=caller.project_id,
        base_model=target.entry.name,
        adapter=target.adapter,
        request=trial.model_dump(mode="json"),
        streamed=streamed,
    )


async def _events(
    chunks: presentation.Chunks, first: TrialAnswer, rest: AsyncIterator[TrialAnswer]
) -> AsyncIterator[bytes]:
    """Yield OpenAI's server-sent events: pieces of the text, perhaps the usage, and the mark of the end."""
    answer: TrialAnswer | None = first
    try:
        while answer is not None:
            assert isinstance(answer, WrittenText)
            for chunk in chunks.of(answer):
                yield format_sse_event(data_str=chunk)
            answer = await anext(rest, None)
        yield format_sse_event(data_str="[DONE]")
    except ApiError as error:  # the answer's status is sent already
        yield format_sse_event(data_str=presentation.broken_off(error))


def _labels_problem(target: Target, body: ClassificationIn) -> RequestProblem | None:
    if target.adapter is not None:
        for name in ("labels", "description"):
            if getattr(body, name) is not None:
                message = f"The fine-tuned model has its own {name}. Leave it out."
                return RequestProblem(name, "conflicting_parameters", message)
        return None
    if target.entry.kind == "encoder":
        message = f"{body.model!r} knows no labels before it is fine-tuned. Name a fine-tuned model."
        return RequestProblem("model", "wrong_endpoint", message)
    if body.labels is None:
        return RequestProblem("labels", "invalid_value", "A base model has no labels of its own. Name two or more.")
    if len(set(body.labels)) < len(body.labels):
        return RequestProblem("labels", "invalid_value", "A label is listed twice. List each label once.")
    return None
