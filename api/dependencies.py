"""What endpoints are given: the application's services, and the caller with the right to do what is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from api.auth import Caller, authenticate
from api.errors import InvalidRequestError, PermissionDeniedError
from api.settings import ApiSettings
from api.validation import broken_texts
from sgg_core.catalogue import Catalogue
from sgg_store.database import Database
from sgg_store.objects import ObjectStore


@dataclass(frozen=True)
class Services:
    """Everything that requests share. `ring` and `worker_problem` are as in `create_app`."""

    settings: ApiSettings
    database: Database
    objects: ObjectStore
    key_secret: bytes
    ring: Callable[[str], None] | None
    worker_problem: Callable[[], str | None] | None
    inspecting: threading.Lock = field(default_factory=threading.Lock)
    """Held while an upload is inspected: one at a time bounds the memory that uploads take."""

    def catalogue(self) -> Catalogue:
        """The base models as they are now; an administrator may add one while the server runs."""
        return Catalogue.load(self.settings.data_dir)


def services_of(request: Request) -> Services:
    """Give the services that the application was started with."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]


def refuse_broken_texts(request: Request) -> None:
    """Check the texts in path and query before anything looks them up. Raises InvalidRequestError naming them."""
    problems = broken_texts({**request.path_params, **request.query_params})
    if problems:
        raise InvalidRequestError(problems)


class Allowed:
    """A dependency: the caller, if its key carries `scope` (or `admin`, which includes all)."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def __call__(self, request: Request, services: ServicesDep) -> Caller:
        """Authenticate. Raises AuthenticationError or PermissionDeniedError."""
        caller = authenticate(services.database, services.key_secret, request.headers.get("authorization"))
        if self.scope not in caller.scopes and "admin" not in caller.scopes:
            raise PermissionDeniedError(
                f"This API key has no scope {self.scope!r}. Use one that has, or ask the administrator for it."
            )
        return caller


FilesReader = Annotated[Caller, Depends(Allowed("files:read"))]
FilesWriter = Annotated[Caller, Depends(Allowed("files:write"))]
JobsReader = Annotated[Caller, Depends(Allowed("jobs:read"))]
JobsWriter = Annotated[Caller, Depends(Allowed("jobs:write"))]
