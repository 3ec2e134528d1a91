"""What happens to jobs: decide, commit, then ring; and what a caller may read and cancel."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from api.auth import Caller
from api.dependencies import Services
from api.errors import InvalidRequestError
from api.jobs.checks import DataChecks, check_settings, read_draft
from api.jobs.presentation import checkpoint_out, event_out, job_out
from api.jobs.schemas import CheckpointOut, EventOut, JobIn, JobOut
from api.schemas import CursorListOut, ListOut
from sgg_store.checkpoints import Checkpoints
from sgg_store.errors import BrokerUnavailableError, IdempotencyMismatchError
from sgg_store.events import Events
from sgg_store.jobs import Jobs, NewJob
from sgg_store.records import JobRecord

logger = logging.getLogger("sgg.api")


@dataclass(frozen=True, slots=True)
class Repeat:
    """How a request says that it may have been sent before."""

    idempotency_key: str | None
    is_retry: bool
    """The client library sends it again because it got no answer."""


def create(services: Services, caller: Caller, body: dict[str, Any], repeat: Repeat) -> JobOut:
    """Create a job, or give the one that the same request made before.

    Raises InvalidRequestError with everything that is wrong, or IdempotencyMismatchError.
    """
    request_hash = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    within = services.settings.duplicate_window_seconds if repeat.is_retry else None
    earlier = _made_before(services, caller, request_hash, repeat.idempotency_key, within)
    if earlier is not None:
        return retrieve(services, caller, earlier.id)
    job_in = _checked(services, caller, body)
    new = _new_job(job_in, caller, request_hash, repeat.idempotency_key)
    with services.database.begin() as session:
        job, is_new = Jobs(session).create(new, repeats_within=within)
    if is_new and services.ring is not None:
        _ring(services, job.id)
    return retrieve(services, caller, job.id)


def retrieve(services: Services, caller: Caller, job_id: str) -> JobOut:
    """Give a job. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return job_out(session, Jobs(session).get(caller.project_id, job_id))


def list_page(
    services: Services, caller: Caller, *, after: str | None, limit: int, metadata: dict[str, str]
) -> ListOut[JobOut]:
    """Give one page of the caller's jobs, newest first; only those that carry all pairs of `metadata`."""
    with services.database.read() as session:
        page = Jobs(session).list_page(caller.project_id, after=after, limit=limit, metadata=metadata)
        return ListOut[JobOut](data=[job_out(session, job) for job in page.items], has_more=page.has_more)


def cancel(services: Services, caller: Caller, job_id: str) -> JobOut:
    """Cancel a queued job, or ask the worker of a running one to stop. Raises TransitionError for a finished one."""
    with services.database.begin() as session:
        Jobs(session).request_cancel(caller.project_id, job_id)
    return retrieve(services, caller, job_id)


def list_events(services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int) -> ListOut[EventOut]:
    """Give one page of a job's events, newest first."""
    with services.database.read() as session:
        Jobs(session).get(caller.project_id, job_id)
        page = Events(session).list_page(caller.project_id, job_id, after=after, limit=limit)
        return ListOut[EventOut](data=[event_out(event) for event in page.items], has_more=page.has_more)


def list_checkpoints(
    services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> CursorListOut[CheckpointOut]:
    """Give one page of a job's checkpoints, newest first."""
    with services.database.read() as session:
        job = Jobs(session).get(caller.project_id, job_id)
        page = Checkpoints(session).list_page(caller.project_id, job_id, after=after, limit=limit)
        data = [checkpoint_out(job, checkpoint) for checkpoint in page.items]
    return CursorListOut[CheckpointOut](data=data, has_more=page.has_more)


def _made_before(
    services: Services, caller: Caller, request_hash: str, idempotency_key: str | None, within: float | None
) -> JobRecord | None:
    """Find an equal request's job before anything is checked: its files may be gone by now."""
    with services.database.read() as session:
        jobs = Jobs(session)
        if idempotency_key is None:
            return None if within is None else jobs.find_recent_duplicate(request_hash, caller.key_id, within)
        earlier = jobs.find_by_idempotency_key(caller.project_id, idempotency_key)
    if earlier is not None and earlier.request_hash != request_hash:
        raise IdempotencyMismatchError(idempotency_key, earlier.id)
    return earlier


def _checked(services: Services, caller: Caller, body: dict[str, Any]) -> JobIn:
    draft, problems = read_draft(body)
    problems += [*check_settings(draft), *DataChecks(services, caller, draft).run()]
    if problems or not isinstance(draft, JobIn):
        raise InvalidRequestError(problems)
    return draft


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
        suffix=job_in.suffix,
        method_request=job_in.method.model_dump(mode="json", exclude_unset=True) if job_in.method else None,
        user_metadata=job_in.metadata or {},
        api_key_id=caller.key_id,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
    )


def _ring(services: Services, job_id: str) -> None:
    assert services.ring is not None
    try:
        services.ring(job_id)
    except BrokerUnavailableError:  # the job is safe in the database, and the dispatcher rings again
        logger.exception("The doorbell for %s did not ring", job_id)
