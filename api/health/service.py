"""Looks at each part that the server depends on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from api.dependencies import Services
from api.health.schemas import ReadyOut

logger = logging.getLogger("sgg.api")


def readiness(services: Services) -> ReadyOut:
    """Check the database, the object store, and the worker if there is one in this process."""
    checks = {
        "database": _outcome("database", lambda: _schema_problem(services)),
        "object_store": _outcome("object_store", lambda: _probe(services)),
    }
    if services.worker_problem is not None:
        checks["worker"] = _outcome("worker", services.worker_problem)
    healthy = all(outcome == "ok" for outcome in checks.values())
    return ReadyOut(status="ok" if healthy else "unavailable", checks=checks)


def _schema_problem(services: Services) -> str | None:
    return None if services.database.schema_is_current() else "Its tables are of another version."


def _probe(services: Services) -> None:
    services.objects.put("health/probe", b"", create_only=False)


def _outcome(part: str, problem: Callable[[], str | None]) -> str:
    try:
        return problem() or "ok"
    except Exception:  # any failure of a part means "not ready"; its text may tell internals, so it stays in the log
        logger.exception("The %s is not ready", part)
        return "It does not answer; see the server's log."
