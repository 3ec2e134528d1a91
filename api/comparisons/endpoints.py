"""/v1/fine_tuning/compare: several jobs side by side."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Query

from api.comparisons import service
from api.comparisons.schemas import ComparisonOut
from api.dependencies import JobsReader, ServicesDep
from api.routers import make_router

router = make_router("/v1/fine_tuning/compare", "fine-tuning")


@router.get("")
async def compare_jobs(
    services: ServicesDep,
    caller: JobsReader,
    jobs: Annotated[str, Query(max_length=1000, description="Ids of two to eight jobs, with commas between.")],
    resolution: Annotated[int, Query(ge=1, le=5000, description="How many points to give at most for a curve.")] = 500,
) -> ComparisonOut:
    """Compare jobs: what they were told, how they went, and what they say of the same validation examples."""
    return await run_sync(service.compare, services, caller, jobs, resolution, limiter=services.comparing)
