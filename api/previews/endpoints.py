"""/v1/fine_tuning/preview: what the base model will see."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Request

from api.dependencies import JobsWriter, ServicesDep
from api.previews import service
from api.previews.schemas import PreviewIn, PreviewOut
from api.routers import make_router

router = make_router("/v1/fine_tuning", "fine-tuning")


@router.post("/preview", response_model=PreviewOut)
async def create_preview(
    body: Annotated[dict[str, Any], Body(json_schema_extra=PreviewIn.model_json_schema())],
    request: Request,
    services: ServicesDep,
    caller: JobsWriter,
) -> Any:
    """Show a training file's first examples as a training shows them to the base model, with what is trained of them.

    They are rendered by a worker, with the code that trains.
    """
    caller.trail.changes_nothing = True
    return await service.preview(services, caller, request, body)
