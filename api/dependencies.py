"""What endpoints are given: the application's services, and the caller with the right to do what is asked."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from api.audit.trail import Trail
from api.auth import Caller, KeyRing, authenticate
from api.errors import InvalidRequestError, PermissionDeniedError
from api.jobs.feed import EventFeed
from api.project_locks import ProjectLocks
from api.rates import RateLimiter
from api.settings import ApiSettings
from api.trials.desk import TrialDesk
from api.validation import broken_texts
from sgg_core.catalogue import Catalogue
from sgg_store.database import Database
from sgg_store.forecasts import Forecasts
from sgg_store.objects import ObjectStore
from sgg_store.periodic import Periodic

STORING_THREADS = 4
UPLOADS_OF_PROJECT = 4
COMPARING_THREADS = 2
READING_THREADS = 2


@dataclass(frozen=True)
class Services:
    """Everything that requests share. `ring` and `worker_problem` are as in `create_app`."""

    settings: ApiSettings
    database: Database
    objects: ObjectStore
    key_secret: bytes
    ring: Callable[[str], None] | None
    worker_problem: Callable[[], str | None] | None
    feed: EventFeed
    forecasts: Forecasts
    keys: KeyRing
    rates: RateLimiter
    reaper: Periodic
    trials: TrialDesk
    inspecting: threading.Lock = field(default_factory=threading.Lock)
    """Held while an upload is inspected: one at a time bounds the memory that uploads take."""
    uploading: defaultdict[str, CapacityLimiter] = field(
        default_factory=lambda: defaultdict(lambda: CapacityLimiter(UPLOADS_OF_PROJECT))
    )
    """Each project's uploads that are under way, by its id: further ones wait, so that they fill neither the disk nor
    the threads that all projects share."""
    storing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(STORING_THREADS))
    """Threads that inspect and store uploads: these wait for each other, and must not keep all others waiting."""
    storing_turns: ProjectLocks = field(default_factory=ProjectLocks)
    """In which projects take such a thread: one upload each, so that none waits for all the uploads of another."""
    comparing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(COMPARING_THREADS))
    """Threads that compare jobs, which is seconds of computing for large validation files."""
    reading: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READING_THREADS))
    """Threads that read whole files of examples: few at a time bound the memory that these take."""

    def catalogue(self) -> Catalogue:
        """The base models as they are now; an administrator may add one while the server runs."""
        return Catalogue.load(self.settings.catalogue_dir)


async def services_of(request: Request) -> Services:
    """Give the services that the application was started with."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]


async def refuse_broken_texts(request: Request) -> None:
    """Check the texts in path and query before anything looks them up. Raises InvalidRequestError naming them."""
    problems = broken_texts({**request.path_params, **request.query_params})
    if problems:
        raise InvalidRequestError(problems)


class Allowed(SecurityBase):
    """A dependency: the caller, if its key carries `scope` (or `admin`, which includes all)."""

    scheme_name = "key"
    model = HTTPBearer(description="An API key.")

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request, services: ServicesDep) -> Caller:
        """Authenticate, in a thread only if that may have to wait for the database or for Redis.

        Raises AuthenticationError, RateLimitedError or PermissionDeniedError.
        """
        known = services.keys.remembered(request.headers.get("authorization", "").partition(" ")[2].strip())
        if known is not None and services.rates.at_hand(known.key_id):
            return self._admit(request, services)
        return await run_in_threadpool(self._admit, request, services)

    def _admit(self, request: Request, services: Services) -> Caller:
        identity = authenticate(services.keys, request)
        trail: Trail = request.state.trail
        trail.project_id, trail.key_id = identity.project_id, identity.key_id
        request.state.headers = services.rates.hit(identity.key_id)
        if self.scope not in identity.scopes and "admin" not in identity.scopes:
            raise PermissionDeniedError(
                f"This API key lacks the scope {self.scope!r}. Use a key that has it, or ask the administrator for one."
            )
        return Caller(identity.project_id, identity.key_id, identity.scopes, trail)


FilesReader = Annotated[Caller, Security(Allowed("files:read"), scopes=["files:read"])]
FilesWriter = Annotated[Caller, Security(Allowed("files:write"), scopes=["files:write"])]
Trier = Annotated[Caller, Security(Allowed("models:try"), scopes=["models:try"])]
JobsReader = Annotated[Caller, Security(Allowed("jobs:read"), scopes=["jobs:read"])]
JobsWriter = Annotated[Caller, Security(Allowed("jobs:write"), scopes=["jobs:write"])]
Administrator = Annotated[Caller, Security(Allowed("admin"), scopes=["admin"])]
