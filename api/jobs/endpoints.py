"""/v1/fine_tuning/jobs: create, list, retrieve, delete, cancel, pause, resume; events, metrics, report, examples and
checkpoints of a job."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Body, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.dependencies import JobsReader, JobsWriter, ServicesDep
from api.jobs import service
from api.jobs.answer_schemas import EVENT_STREAM, REPORT_FORMATS, CheckpointOut, EventOut, JobOut, MetricsOut
from api.jobs.dry_run import dry_run as try_dry
from api.jobs.dry_run_schemas import DryRunOut
from api.jobs.examples import ExamplesOut, examples
from api.jobs.filters import metadata_filter
from api.jobs.schemas import JobIn
from api.routers import make_router
from api.schemas import After, CursorListOut, DeletedOut, ListOut, PageLimit, json_answer
from sgg_core.report import TrainingReport
from sgg_store.job_state import JobStatus
from sgg_store.metrics import Window

router = make_router("/v1/fine_tuning/jobs", "fine-tuning")
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
RetryCount = Annotated[str, Header(alias="x-stainless-retry-count")]


@router.post("", response_model=JobOut | DryRunOut)
async def create_job(
    body: Annotated[dict[str, Any], Body(json_schema_extra=JobIn.model_json_schema())],
    request: Request,
    services: ServicesDep,
    caller: JobsWriter,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = "0",
    dry_run: Annotated[bool, Query(description="Make no job; say what is wrong, and what it would cost.")] = False,
) -> Response:
    """Create a fine-tuning job. A request with the same Idempotency-Key and body gives the same job."""
    if dry_run:
        caller.trail.changes_nothing = True
        return json_answer(await try_dry(services, caller, request, body))
    repeat = service.Repeat(idempotency_key, _is_retry(retry_count))
    return json_answer(await run_in_threadpool(service.create, services, caller, body, repeat))


@router.get("", response_model=ListOut[JobOut])
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: JobsReader,
    after: After = None,
    limit: PageLimit = 20,
    status: JobStatus | None = None,
) -> Response:
    """List jobs, newest first. `metadata[k]=v`, up to 16 times, gives only those that carry these pairs.

    `metadata=null` gives only those without metadata.
    """
    metadata = metadata_filter(request.query_params)
    page = service.list_page(services, caller, after=after, limit=limit, metadata=metadata, status=status)
    return json_answer(page)


@router.get("/{job_id}", response_model=JobOut)
def retrieve_job(job_id: str, services: ServicesDep, caller: JobsReader) -> Response:
    """Give one job."""
    return json_answer(service.retrieve(services, caller, job_id))


@router.delete("/{job_id}")
def delete_job(job_id: str, services: ServicesDep, caller: JobsWriter) -> DeletedOut:
    """Delete a finished job with its checkpoints, result files and model."""
    service.delete(services, caller, job_id)
    return DeletedOut(id=job_id, object="fine_tuning.job")


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep, caller: JobsWriter, retry_count: RetryCount = "0") -> JobOut:
    """Cancel a job that is not finished."""
    return service.cancel(services, caller, job_id, _is_retry(retry_count))


@router.post("/{job_id}/pause")
def pause_job(job_id: str, services: ServicesDep, caller: JobsWriter) -> JobOut:
    """Pause a queued or running job; it keeps its exact state."""
    return service.pause(services, caller, job_id)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, services: ServicesDep, caller: JobsWriter, retry_count: RetryCount = "0") -> JobOut:
    """Queue a paused job again; it goes on where it stopped."""
    return service.resume(services, caller, job_id, _is_retry(retry_count))


@router.get("/{job_id}/events", response_model=ListOut[EventOut], responses=EVENT_STREAM)
def list_events(
    job_id: str,
    request: Request,
    services: ServicesDep,
    caller: JobsReader,
    accept: Annotated[str, Header()] = "",
    stream: bool = False,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
    after: After = None,
    limit: PageLimit = 20,
) -> Any:
    """List a job's events, newest first; or stream them, oldest first, as they happen.

    `stream=true`, or the header `Accept: text/event-stream`, opens a stream, which begins after `Last-Event-ID`.
    """
    if stream or "text/event-stream" in accept:
        return service.stream_events(services, caller, job_id, request, last_event_id=last_event_id)
    return service.list_events(services, caller, job_id, after=after, limit=limit)


@router.get("/{job_id}/metrics")
def retrieve_metrics(
    job_id: str,
    services: ServicesDep,
    caller: JobsReader,
    names: Annotated[str | None, Query(max_length=1000, description="Names of figures, with commas between.")] = None,
    from_step: Annotated[int, Query(ge=0)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    resolution: Annotated[int, Query(ge=1, le=5000, description="How many points to give at most for a name.")] = 500,
) -> MetricsOut:
    """Give a job's figures over its steps, averaged over as many steps as it takes to give `resolution` points."""
    window = Window(from_step, to_step, resolution)
    return service.metrics(services, caller, job_id, names=names, window=window)


@router.get("/{job_id}/report", response_model=TrainingReport, responses=REPORT_FORMATS)
def retrieve_report(
    job_id: str,
    services: ServicesDep,
    caller: JobsReader,
    format: Annotated[Literal["json", "markdown", "html"], Query(description="How it is written.")] = "json",
) -> Any:
    """Give the report on what a job made: for programs, as a model card, or as a page for browsers."""
    return service.report(services, caller, job_id, format)


@router.get("/{job_id}/examples", response_model=ExamplesOut)
async def list_examples(
    job_id: str,
    services: ServicesDep,
    caller: JobsReader,
    limit: Annotated[int, Query(ge=1, le=2000, description="How many to give at most.")] = 20,
) -> Response:
    """List the training examples of a classification, those first whose label is the most suspicious.

    What the training found out with the frozen base model: cross-validated disagreement and agreement of gradients.
    """
    read = functools.partial(examples, services, caller, job_id, limit=limit)
    return json_answer(await run_sync(read, limiter=services.reading))


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, services: ServicesDep, caller: JobsReader, after: After = None, limit: PageLimit = 10
) -> CursorListOut[CheckpointOut]:
    """List a job's checkpoints, newest first."""
    return service.list_checkpoints(services, caller, job_id, after=after, limit=limit)


def _is_retry(retry_count: str) -> bool:
    return retry_count.strip() not in ("", "0")
