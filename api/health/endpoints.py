"""Health for load balancers and supervisors: no key needed, nothing told but the state."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.dependencies import ServicesDep
from api.health import service
from api.health.schemas import LiveOut, ReadyOut

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
def live() -> LiveOut:
    """Say that the process answers."""
    return LiveOut()


@router.get("/ready")
def ready(services: ServicesDep, response: Response) -> ReadyOut:
    """Say whether the server can do its work; 503 if a part is missing."""
    readiness = service.readiness(services)
    response.status_code = 200 if readiness.status == "ok" else 503
    return readiness
