"""What happens to jobs: decide, commit, then ring; and what a caller may read, cancel, pause and resume."""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import Request
from fastapi.sse import EventSourceResponse
from opentelemetry.trace import SpanKind
from starlette.responses import Response

from api.auth import Caller, authenticate
from api.dependencies import Services
from api.errors import AuthenticationError, InvalidRequestError, NoReportError, PermissionDeniedError
from api.jobs.answer_schemas import CheckpointOut, EventOut, JobOut, MetricsOut, SeriesOut
from api.jobs.presentation import checkpoint_out, event_out, job_out
from api.jobs.requests import check_request, forbidden_priority
from api.jobs.schemas import JobIn
from api.schemas import CursorListOut, ListOut
from api.validation import RequestProblem
from sgg_core.report import CARD, PAGE, PAGE_POLICY, REPORT
from sgg_store.checkpoints import Checkpoints
from sgg_store.cleaning import delete_objects
from sgg_store.errors import (
    BrokerUnavailableError,
    ObjectNotFoundError,
    StoreError,
    TransitionError,
)
from sgg_store.events import Events, seq_of
from sgg_store.failpoints import Failpoint, reach
from sgg_store.job_state import TERMINAL, JobStatus
from sgg_store.job_views import JobViews, new_view
from sgg_store.jobs import Jobs
from sgg_store.logs import get_logger
from sgg_store.metrics import FIGURES, Metrics, Window
from sgg_store.new_jobs import NewJob, NewJobs
from sgg_store.quotas import Quotas
from sgg_store.records import JobRecord
from sgg_store.reports import key_of_report
from sgg_store.retries import SPARE_RINGS
from sgg_store.tracing import origin, tracer

_log = get_logger(__name__)

ReportForm = Literal["json", "markdown", "html"]
REPORT_FILES: dict[ReportForm, tuple[str, str]] = {
    "json": (REPORT, "application/json"),
    "markdown": (CARD, "text/markdown"),
    "html": (PAGE, "text/html"),
}


@dataclass(frozen=True, slots=True)
class Repeat:
    """How a request says that it may have been sent before."""

    idempotency_key: str | None
    is_retry: bool
    """The client library sends it again because it got no answer."""


def create(services: Services, caller: Caller, body: dict[str, Any], repeat: Repeat) -> JobOut:
    """Create a job, or give the one that the same request made before.

    Raises InvalidRequestError with everything that is wrong, IdempotencyMismatchError, QuotaExceededError, or
    PermissionDeniedError for a priority that the caller may not ask for.
    """
    request_hash = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    within = services.settings.duplicate_window_seconds if repeat.is_retry else None
    earlier = _made_before(services, caller, request_hash, repeat.idempotency_key, within)
    if earlier is not None:
        caller.trail.target = earlier.id
        return retrieve(services, caller, earlier.id)
    checked = check_request(services, caller, body)
    job_in = checked.draft
    if checked.problems or not isinstance(job_in, JobIn):
        raise InvalidRequestError(checked.problems)
    forbidden = forbidden_priority(caller, job_in)
    if forbidden is not None:
        raise PermissionDeniedError(forbidden)
    with tracer.start_as_current_span("job", kind=SpanKind.PRODUCER) as span, services.database.begin() as session:
        new = replace(_new_job(job_in, caller, request_hash, repeat.idempotency_key), start=checked.start)
        job, is_new = NewJobs(session).create(new, repeats_within=within)
        caller.trail.write(session, job.id, model=job.base_model, repeated=not is_new)
        if is_new:
            place = Quotas(session, services.settings.quotas).admit_job(job)
        span.set_attributes({"sgg.job_id": job.id, "sgg.base_model": job.base_model})
    reach(Failpoint.JOB_COMMITTED)
    if not is_new:
        return retrieve(services, caller, job.id)
    outlook = services.forecasts.outlook()
    if services.ring is not None and place <= outlook.workers + SPARE_RINGS:
        _ring(services, job.id)
    view = new_view(job, new.user_metadata, checked.data.kind, place)
    return job_out(view, outlook, alone=True)


def retrieve(services: Services, caller: Caller, job_id: str) -> JobOut:
    """Give a job. Raises RecordNotFoundError."""
    with services.database.read() as session:
        view = JobViews(session).get(caller.project_id, job_id)
    return job_out(view, services.forecasts.outlook(), alone=True)


def list_page(
    services: Services,
    caller: Caller,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None,
    status: JobStatus | None,
) -> ListOut[JobOut]:
    """Give one page of the caller's jobs, newest first; only those that carry all pairs of `metadata`.

    Where that is None, only those that carry none.
    """
    bare = metadata is None
    with services.database.read() as session:
        page = Jobs(session).list_page(
            caller.project_id, after=after, limit=limit, metadata=metadata, without_metadata=bare, status=status
        )
        views = JobViews(session).of(page.items)
    outlook = services.forecasts.outlook()
    return ListOut[JobOut](data=[job_out(view, outlook) for view in views], has_more=page.has_more)


def cancel(services: Services, caller: Caller, job_id: str, is_retry: bool) -> JobOut:
    """Cancel a queued job, or ask the worker of a running one to stop. Raises TransitionError for a finished one.

    A client that asks again, because it got no answer, is told what its first request did.
    """
    try:
        with services.database.begin() as session:
            Jobs(session).request_cancel(caller.project_id, job_id)
            caller.trail.write(session, job_id)
    except TransitionError as error:
        if not is_retry or error.status != JobStatus.CANCELLED:
            raise
    return retrieve(services, caller, job_id)


def pause(services: Services, caller: Caller, job_id: str) -> JobOut:
    """Pause a queued job, or ask the worker of a running one to stop. Raises TransitionError for a finished one."""
    with services.database.begin() as session:
        Jobs(session).request_pause(caller.project_id, job_id)
        caller.trail.write(session, job_id)
    return retrieve(services, caller, job_id)


def resume(services: Services, caller: Caller, job_id: str, is_retry: bool) -> JobOut:
    """Queue a paused job again. Raises TransitionError for one that is not paused.

    A client that asks again, because it got no answer, is told what its first request did.
    """
    try:
        with services.database.begin() as session:
            queued = Jobs(session).resume(caller.project_id, job_id).status is JobStatus.QUEUED
            caller.trail.write(session, job_id)
    except TransitionError as error:
        if not is_retry or error.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
            raise
        queued = error.status == JobStatus.QUEUED  # its doorbell may not have been rung either
    if queued and services.ring is not None:
        _ring(services, job_id)
    return retrieve(services, caller, job_id)


def delete(services: Services, caller: Caller, job_id: str) -> None:
    """Delete a finished job with all its objects. Raises TransitionError for another one."""
    with services.database.begin() as session:
        folder = Jobs(session).delete(caller.project_id, job_id)
        caller.trail.write(session, job_id)
    delete_objects(services.objects, [folder])


def list_events(services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int) -> ListOut[EventOut]:
    """Give one page of a job's events, newest first."""
    with services.database.read() as session:
        Jobs(session).get(caller.project_id, job_id)
        page = Events(session).list_page(caller.project_id, job_id, after=after, limit=limit)
        return ListOut[EventOut](data=[event_out(event) for event in page.items], has_more=page.has_more)


def stream_events(
    services: Services, caller: Caller, job_id: str, request: Request, *, last_event_id: str | None
) -> Response:
    """Open a stream of a job's events after the one with the id `last_event_id`, or of all. 204 if none can follow.

    It breaks off when the key that came with the request is no longer valid. Raises RecordNotFoundError, or
    InvalidRequestError for an id that is none of this job's events.
    """
    with services.database.read() as session:
        job = Jobs(session).get(caller.project_id, job_id)
    seq = 0 if last_event_id is None else seq_of(job_id, last_event_id)
    if last_event_id is not None and not 0 < seq <= job.last_event_seq:
        message = f"{last_event_id!r} is not an event of this job. Leave the header out to begin with the first event."
        raise InvalidRequestError([RequestProblem("Last-Event-ID", "invalid_cursor", message)])
    if job.status in TERMINAL and seq == job.last_event_seq:
        return Response(status_code=204)  # which tells browsers not to come again
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    is_allowed = functools.partial(_is_allowed, services, request)
    return EventSourceResponse(services.feed.stream(caller.project_id, job_id, seq, is_allowed), headers=headers)


def _is_allowed(services: Services, request: Request) -> bool:
    try:
        authenticate(services.keys, request)
    except AuthenticationError:
        return False
    except StoreError:  # nobody can say now; there are no events without the database, either
        return True
    return True


def metrics(services: Services, caller: Caller, job_id: str, *, names: str | None, window: Window) -> MetricsOut:
    """Give a job's figures. Raises RecordNotFoundError, or InvalidRequestError for names that no figure has."""
    wanted = tuple(dict.fromkeys(names.split(","))) if names else FIGURES
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        message = f"There is no figure {unknown[0]!r}. Known ones: {', '.join(FIGURES)}."
        raise InvalidRequestError([RequestProblem("names", "invalid_value", message)])
    with services.database.read() as session:
        Jobs(session).get(caller.project_id, job_id)
        found = Metrics(session).curves(job_id, wanted, window)
    data = [
        SeriesOut(
            name=name,
            steps=[point.step for point in points],
            values=[point.mean for point in points],
            low=[point.low for point in points],
            high=[point.high for point in points],
        )
        for name, points in found.points.items()
    ]
    return MetricsOut(
        job_id=job_id,
        from_step=found.from_step,
        to_step=found.to_step,
        steps_per_point=found.steps_per_point,
        data=data,
    )


def report(services: Services, caller: Caller, job_id: str, form: ReportForm) -> Response:
    """Give the report on what a job made. Raises RecordNotFoundError, or NoReportError where there is none."""
    name, media_type = REPORT_FILES[form]
    with services.database.read() as session:
        job = Jobs(session).get(caller.project_id, job_id)
        key = key_of_report(session, job, name)
    if key is None:
        told = "Wait until it has ended." if job.status not in TERMINAL else "Only jobs that succeeded have one."
        raise NoReportError(f"The job {job_id} is {job.status} and has no report. {told}")
    try:
        content = b"".join(services.objects.open(key))
    except ObjectNotFoundError as error:
        raise NoReportError(
            f"The job {job_id} was trained by an older version, which kept its report in the adapter's archive only. "
            "Download that, or train again."
        ) from error
    return Response(content, media_type=media_type, headers={"content-security-policy": PAGE_POLICY})


def list_checkpoints(
    services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> CursorListOut[CheckpointOut]:
    """Give one page of a job's checkpoints, newest first."""
    with services.database.read() as session:
        job = Jobs(session).get(caller.project_id, job_id)
        page = Checkpoints(session).list_page(caller.project_id, job_id, after=after, limit=limit)
        files = Checkpoints(session).files_of([checkpoint.id for checkpoint in page.items])
        data = [checkpoint_out(job, checkpoint, files[checkpoint.id]) for checkpoint in page.items]
    return CursorListOut[CheckpointOut](data=data, has_more=page.has_more)


def _made_before(
    services: Services, caller: Caller, request_hash: str, idempotency_key: str | None, within: float | None
) -> JobRecord | None:
    """Find an equal request's job before anything is checked: its files may be gone by now."""
    if idempotency_key is None and within is None:
        return None
    with services.database.read() as session:
        return NewJobs(session).made_before(caller.project_id, caller.key_id, request_hash, idempotency_key, within)


def _new_job(job_in: JobIn, caller: Caller, request_hash: str, idempotency_key: str | None) -> NewJob:
    seed = secrets.randbelow(2**31) if job_in.seed is None else job_in.seed
    return NewJob(
        project_id=caller.project_id,
        base_model=job_in.model,
        spec=job_in.training_spec(seed).model_dump(mode="json"),
        seed=seed,
        training_file_id=job_in.training_file,
        validation_file_id=job_in.validation_file,
        source_file_ids=tuple(job_in.settings.sources),
        retention_file_id=job_in.settings.retention_file,
        suffix=job_in.suffix,
        user_metadata=job_in.metadata or {},
        api_key_id=caller.key_id,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        priority=job_in.settings.priority,
        origin=origin(),
    )


def _ring(services: Services, job_id: str) -> None:
    assert services.ring is not None
    try:
        services.ring(job_id)
    except BrokerUnavailableError:  # the job is safe in the database, and the dispatcher rings again
        _log.exception("a doorbell did not ring", job_id=job_id)
