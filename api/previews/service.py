"""What happens to a preview: the checks of a job's request, then a question to the workers."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.responses import Response

from api.auth import Caller
from api.dependencies import Services
from api.errors import InvalidRequestError
from api.files.schemas import ProblemOut
from api.jobs.requests import CheckedRequest, check_request
from api.previews.schemas import PreviewedOut, PreviewIn, PreviewOut, SegmentOut
from api.trials.asking import CALLER_GONE, ask_for_one
from api.validation import broken_texts, problems_of_model
from sgg_core.trials import Preview, PreviewedExample, PreviewTrial
from sgg_store.trials import NewTrial, StoredFile


async def preview(services: Services, caller: Caller, request: Request, body: dict[str, Any]) -> PreviewOut | Response:
    """Give a preview. Raises InvalidRequestError with everything that is wrong, and what TrialDesk.answers raises."""
    asked = await run_in_threadpool(_read, body)
    job = {name: value for name, value in body.items() if name != "limit"}
    checked = await run_in_threadpool(check_request, services, caller, job)
    if checked.problems:
        raise InvalidRequestError(checked.problems)
    answer = await ask_for_one(services, request, _trial(caller, checked, asked.limit))
    if answer is None:
        return Response(status_code=CALLER_GONE)
    assert isinstance(answer, Preview)
    return PreviewOut(trained=answer.trained, data=[_out(example) for example in answer.examples])


def _read(body: dict[str, Any]) -> PreviewIn:
    try:
        asked = PreviewIn.model_validate(body)
    except ValidationError as error:
        raise InvalidRequestError(problems_of_model(error, PreviewIn)) from None
    broken = broken_texts(body)
    if broken:
        raise InvalidRequestError(broken)
    return asked


def _trial(caller: Caller, checked: CheckedRequest, limit: int) -> NewTrial:
    entry, file = checked.data.entry, checked.data.files["training"]
    assert entry is not None  # else there would be a problem
    trial = PreviewTrial(spec=checked.draft.training_spec(0), filename=file.filename, limit=limit)
    return NewTrial(
        project_id=caller.project_id,
        base_model=entry.name,
        request=trial.model_dump(mode="json"),
        files={"training": StoredFile(key=file.object_key, sha256=file.sha256)},
    )


def _out(example: PreviewedExample) -> PreviewedOut:
    problem = None if example.problem is None else ProblemOut(**dataclasses.asdict(example.problem))
    return PreviewedOut(
        line=example.line,
        segments=[SegmentOut(text=segment.text, trained=segment.trained) for segment in example.segments],
        label=example.label,
        tokens=example.tokens,
        trained_tokens=example.trained_tokens,
        truncated=example.truncated,
        problem=problem,
    )
