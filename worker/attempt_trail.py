"""By what an attempt is found again: the ids in its lines of the log, and what its span tells."""

from __future__ import annotations

from opentelemetry.trace import Span, StatusCode

from sgg_store.leases import Claim
from worker.endings import Ending, Failure, Return


def log_ids(claim: Claim) -> dict[str, str | int]:
    """The job, the attempt, and the request that made the job, if it is known."""
    ids: dict[str, str | int] = {"job_id": claim.lease.job_id, "attempt": claim.lease.attempt}
    return ids | ({"request_id": claim.origin["request_id"]} if "request_id" in claim.origin else {})


def describe_attempt(span: Span, claim: Claim, ending: Ending | None) -> None:
    """Tell in an attempt's span what it worked on and how it ended; None is the loss of its lease."""
    named = "LeaseLost" if ending is None else type(ending).__name__
    span.set_attribute("sgg.job_id", claim.lease.job_id)
    span.set_attribute("sgg.attempt", claim.lease.attempt)
    span.set_attribute("sgg.base_model", claim.base_model)
    span.set_attribute("sgg.ending", named)
    if isinstance(ending, Failure | Return):
        span.set_attribute("sgg.cause", ending.cause)
    if ending is None or isinstance(ending, Failure | Return):
        span.set_status(StatusCode.ERROR)
