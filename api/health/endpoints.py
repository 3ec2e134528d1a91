"""Health for load balancers and supervisors: no key needed, nothing told but the state."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.health import service
from api.health.schemas import LiveOut, ReadyOut
from api.openapi import RESPONSES

router = APIRouter(prefix="/health", tags=["health"], responses={500: RESPONSES[500]})


@router.get("/live")
async def live() -> LiveOut:
    """Say that the process answers. It needs no thread of the pool, all of which may wait for a dead database."""
    return LiveOut()


@router.get("/ready", responses={503: {"model": ReadyOut, "description": "A part is missing."}})
async def ready(request: Request, response: Response) -> ReadyOut:
    """Say whether the server can do its work; 503 if a part is missing, or does not answer in time."""
    readiness = await service.readiness(request.app.state.probes)
    response.status_code = 200 if readiness.status == "ok" else 503
    return readiness
