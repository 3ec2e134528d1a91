"""The application: what it needs while it lives, which routers it has, and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from api.dependencies import Services, refuse_broken_texts
from api.errors import register_error_handlers
from api.files import endpoints as files
from api.health import endpoints as health
from api.jobs import endpoints as jobs
from api.middleware import BodyBound, BodyLimit, RequestFrame
from api.models import endpoints as models
from api.settings import ApiSettings
from sgg_store.database import Database
from sgg_store.keys import load_key_secret
from sgg_store.objects import open_object_store

MULTIPART_OVERHEAD_BYTES = 64 * 1024  # boundaries, part headers and the small fields around an uploaded file


def create_app(
    settings: ApiSettings,
    *,
    ring: Callable[[str], None] | None = None,
    worker_problem: Callable[[], str | None] | None = None,
) -> FastAPI:
    """Make the HTTP application. The database's schema must be current when it starts (else SchemaOutdatedError).

    `ring` announces a committed job to the workers; without it the dispatcher finds the job a little later.
    `worker_problem` says what is wrong with the worker in the same process, if there is one, for /health/ready.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database_url)
        try:
            database.require_current_schema()
            objects = open_object_store(settings.object_store_url)
            secret = load_key_secret(settings.data_dir)
            app.state.services = Services(settings, database, objects, secret, ring, worker_problem)
            yield
        finally:
            database.dispose()

    file_limit = f"A data file may have at most {settings.max_upload_bytes:,} bytes. Leave examples out, or split it."
    json_limit = f"This request may have at most {settings.max_json_bytes:,} bytes. Send examples as files."
    upload_bound = BodyBound(settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES, file_limit)
    json_bound = BodyBound(settings.max_json_bytes, json_limit)

    app = FastAPI(title="SGG", lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None)
    register_error_handlers(app)
    for module in (files, jobs, models, health):
        app.include_router(module.router, dependencies=[Depends(refuse_broken_texts)])
    app.add_middleware(BodyLimit, bound_of=lambda path: upload_bound if path == "/v1/files" else json_bound)
    app.add_middleware(RequestFrame)  # the outermost: what is added last runs first
    return app
