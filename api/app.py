"""The application: what it needs while it lives, which routers it has, and what surrounds them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.telemetry import TelemetryConfig
from starlette.routing import BaseRoute

from api import not_offered
from api.audit import endpoints as audit
from api.audit.middleware import AuditFrame
from api.auth import KeyRing
from api.checkpoints import endpoints as checkpoints
from api.comparisons import endpoints as comparisons
from api.dashboard import endpoints as dashboard
from api.dependencies import Services
from api.errors import register_error_handlers
from api.files import endpoints as files
from api.files.upload import MULTIPART_OVERHEAD_BYTES
from api.health import endpoints as health
from api.health.service import make_probes
from api.jobs import endpoints as jobs
from api.jobs import graders
from api.jobs.feed import EventFeed
from api.jobs.presentation import render_event
from api.keys import endpoints as keys
from api.middleware import BodyBound, BodyLimit, RequestFrame
from api.models import endpoints as models
from api.openapi import describe
from api.previews import endpoints as previews
from api.projects import endpoints as projects
from api.rates import RateLimiter
from api.settings import ApiSettings
from api.trials import endpoints as trials
from api.trials.desk import TrialDesk
from api.uploads import endpoints as uploads
from api.webhooks import endpoints as webhooks
from api.webhooks.sender import WebhookSender
from api.webhooks.signing import Signer
from api.workers import endpoints as workers
from sgg_store.database import Database
from sgg_store.forecasts import Forecasts
from sgg_store.keys import load_key_secret
from sgg_store.object_probe import open_probed_object_store
from sgg_store.reaper import make_reaper

TELEMETRY: TelemetryConfig = {
    "exclude": lambda scope: str(scope["path"]).startswith("/health/"),
    "operation_spans": False,
    "auto_configure": False,  # sgg_store.tracing does it
}
TAKES_FILES = re.compile("/v1/files|/v1/uploads/[^/]+/parts")
BODY_SECONDS = 60.0
"""As long as uploads may be silent; other bodies are small, and have to be whole by then."""
SIGN_IN_MESSAGE = "A sign-in request may have at most 4,096 bytes. Send only an API key or the text of a link."
SIGN_IN_BOUND = BodyBound(4096, SIGN_IN_MESSAGE, BODY_SECONDS)
"""Anyone may send these, so nobody may send many."""
TAKES_LITTLE = re.compile(r"/v1/(organization|webhook_endpoints|uploads|fine_tuning/checkpoints)(/.*)?")
LITTLE_BYTES, LITTLE_REMEDY = 65_536, "Send only the names and ids that it needs."
"""Names and ids, which are read while everyone else waits."""
# routes are asked one after the other, so those that are polled most come first
FINE_TUNING = (jobs, comparisons, previews, graders, checkpoints)
OTHERS = (files, uploads, models, trials, webhooks, projects, keys, audit, workers, dashboard, health, not_offered)
ROUTES: list[BaseRoute] = [route for module in (*FINE_TUNING, *OTHERS) for route in module.router.routes]


def create_app(
    settings: ApiSettings,
    *,
    ring: Callable[[str], None] | None = None,
    worker_problem: Callable[[], str | None] | None = None,
) -> FastAPI:
    """Make the HTTP application.

    When it starts, the database's schema must be current (else SchemaOutdatedError), and the object store must keep
    its promises (else UnsafeObjectStoreError).

    `ring` announces a committed job to the workers; without it the dispatcher finds the job a little later.
    `worker_problem` says what is wrong with the worker in the same process, if there is one, for /health/ready.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database_url)
        try:
            database.require_current_schema()
            objects = open_probed_object_store(settings.object_store_url)
            secret = load_key_secret(settings.data_dir)
            feed = EventFeed(database, render_event)
            known_keys = KeyRing(database, secret, settings.key_cache_seconds)
            reaper = make_reaper(database, settings.reap_seconds)
            rates = RateLimiter(settings.rate_limit, settings.broker_url)
            app.state.services = Services(
                *(settings, database, objects, secret, ring, worker_problem, feed, Forecasts(database)),
                *(known_keys, rates, reaper),
                TrialDesk(database, settings.trial_limits),
            )
            app.state.probes = make_probes(app.state.services)
            sender = WebhookSender(settings, database, Signer(secret))
            reaper.start()
            sender.start()
            try:
                yield
            finally:
                await run_in_threadpool(sender.stop)
                reaper.stop()
        finally:
            database.dispose()

    file_limit = f"A data file may have at most {settings.max_upload_bytes:,} bytes. Leave examples out, or split it."
    json_limit = f"This request may have at most {settings.max_json_bytes:,} bytes. Upload examples as a file."
    upload_bound = BodyBound(settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES, file_limit)
    json_bound = BodyBound(settings.max_json_bytes, json_limit, BODY_SECONDS)
    little = min(LITTLE_BYTES, settings.max_json_bytes)
    little_bound = BodyBound(little, f"This request may have at most {little:,} bytes. {LITTLE_REMEDY}", BODY_SECONDS)

    def bound_of(path: str) -> BodyBound:
        if TAKES_FILES.fullmatch(path):
            return upload_bound
        if path == dashboard.SESSION_PATH:
            return SIGN_IN_BOUND
        return little_bound if TAKES_LITTLE.fullmatch(path) else json_bound

    app = FastAPI(
        title="SGG",
        routes=ROUTES,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    register_error_handlers(app)
    describe(app)
    app.add_middleware(BodyLimit, bound_of=bound_of)
    app.add_middleware(AuditFrame)
    app.add_middleware(RequestFrame)  # the outermost: what is added last runs first
    return app
