"""/v1/organization/workers: which workers are there, idle ones too."""

from __future__ import annotations

from api.dependencies import Administrator, ServicesDep
from api.routers import make_router
from api.schemas import ListOut
from api.workers import service
from api.workers.schemas import WorkerOut

router = make_router("/v1/organization/workers", "workers")


@router.get("")
def list_workers(services: ServicesDep, caller: Administrator) -> ListOut[WorkerOut]:
    """List all workers, those that started first before the others."""
    return service.list_all(services)
