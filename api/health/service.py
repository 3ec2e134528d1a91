"""The parts that the server depends on, and what to ask each of them."""

from __future__ import annotations

from api.dependencies import Services
from api.health.probes import Probes, Question
from api.health.schemas import ReadyOut
from sgg_store.schema import SchemaState

REAPER_GONE = "It has stopped, so jobs of lost workers are not recovered. Restart the server."


def make_probes(services: Services) -> Probes:
    """Probes of database, object store, reaper, a broker of its own, and the worker if there is one in this process."""
    questions: dict[str, Question] = {
        "database": lambda: _schema_problem(services),
        "object_store": lambda: services.objects.put("health/probe", b"", create_only=False),
        "reaper": lambda: None if services.reaper.alive else REAPER_GONE,
    }
    if not services.settings.broker_is_embedded:
        from sgg_store.queue import make_celery, ping  # loads Celery, which an embedded server need not wait for

        celery = make_celery(services.settings)
        questions["broker"] = lambda: ping(celery)
    if services.worker_problem is not None:
        questions["worker"] = services.worker_problem
    return Probes(questions, services.settings.health_seconds)


async def readiness(probes: Probes) -> ReadyOut:
    """Ask every part; the server is ready if nothing is wrong with any of them."""
    checks = await probes.outcomes()
    healthy = all(outcome == "ok" for outcome in checks.values())
    return ReadyOut(status="ok" if healthy else "unavailable", checks=checks)


def _schema_problem(services: Services) -> str | None:
    state = services.database.schema_status().state
    return None if state is SchemaState.CURRENT else "Its tables belong to another version of SGG. Run `sgg db status`."
