"""/v1/fine_tuning/jobs: create, list, retrieve, cancel, events, checkpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request

from api.dependencies import JobsReader, JobsWriter, ServicesDep
from api.jobs import service
from api.jobs.filters import metadata_filter
from api.jobs.schemas import CheckpointOut, EventOut, JobIn, JobOut
from api.schemas import After, CursorListOut, ListOut, PageLimit

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
RetryCount = Annotated[str, Header(alias="x-stainless-retry-count")]


@router.post("")
def create_job(
    body: Annotated[dict[str, Any], Body(json_schema_extra=JobIn.model_json_schema())],
    services: ServicesDep,
    caller: JobsWriter,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = "0",
) -> JobOut:
    """Create a fine-tuning job. A request with the same Idempotency-Key and body gives the same job."""
    repeat = service.Repeat(idempotency_key, is_retry=retry_count.strip() not in ("", "0"))
    return service.create(services, caller, body, repeat)


@router.get("")
def list_jobs(
    request: Request, services: ServicesDep, caller: JobsReader, after: After = None, limit: PageLimit = 20
) -> ListOut[JobOut]:
    """List jobs, newest first. `metadata[k]=v` gives only those that carry this pair."""
    metadata = metadata_filter(request.query_params)
    return service.list_page(services, caller, after=after, limit=limit, metadata=metadata)


@router.get("/{job_id}")
def retrieve_job(job_id: str, services: ServicesDep, caller: JobsReader) -> JobOut:
    """Give one job."""
    return service.retrieve(services, caller, job_id)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep, caller: JobsWriter) -> JobOut:
    """Cancel a job that is not finished."""
    return service.cancel(services, caller, job_id)


@router.get("/{job_id}/events")
def list_events(
    job_id: str, services: ServicesDep, caller: JobsReader, after: After = None, limit: PageLimit = 20
) -> ListOut[EventOut]:
    """List a job's events, newest first."""
    return service.list_events(services, caller, job_id, after=after, limit=limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, services: ServicesDep, caller: JobsReader, after: After = None, limit: PageLimit = 10
) -> CursorListOut[CheckpointOut]:
    """List a job's checkpoints, newest first."""
    return service.list_checkpoints(services, caller, job_id, after=after, limit=limit)
