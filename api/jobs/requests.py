"""A request for a job, read and checked in one way, whether a job is made of it or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.auth import Caller
from api.dependencies import Services
from api.jobs.checks import DataChecks, check_settings, read_draft
from api.jobs.schemas import JobDraft
from api.jobs.starting_points import with_starting_point
from api.validation import RequestProblem
from sgg_store.new_jobs import Start


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """What was asked for, everything that is wrong with it, and the files and the base model that it names."""

    draft: JobDraft
    start: Start | None
    problems: tuple[RequestProblem, ...]
    data: DataChecks


def check_request(services: Services, caller: Caller, body: dict[str, Any]) -> CheckedRequest:
    """Check a request's body. Whether its priority is allowed is for `forbidden_priority`."""
    draft, problems = read_draft(body)
    started = with_starting_point(services, caller, draft)
    data = DataChecks(services, caller, started.draft)
    problems += [*check_settings(started.draft), *started.problems, *data.run()]
    return CheckedRequest(started.draft, started.start, tuple(problems), data)


def forbidden_priority(caller: Caller, draft: JobDraft) -> str | None:
    """Say that the caller may not ask for this priority, if that is so."""
    priority = draft.settings.priority
    if priority <= 0 or "admin" in caller.scopes:
        return None
    return f"A priority of {priority} needs a key with the scope 'admin'. Use 0 or less."
