"""/v1/models: list, retrieve, delete."""

from __future__ import annotations

from api.dependencies import JobsReader, JobsWriter, ServicesDep
from api.models import service
from api.models.schemas import ModelListOut, ModelOut
from api.routers import make_router
from api.schemas import DeletedOut

router = make_router("/v1/models", "models")


@router.get("")
def list_models(services: ServicesDep, caller: JobsReader) -> ModelListOut:
    """List base models and fine-tuned models."""
    return ModelListOut(data=service.list_all(services, caller))


@router.get("/{model:path}")
def retrieve_model(model: str, services: ServicesDep, caller: JobsReader) -> ModelOut:
    """Give one model."""
    return service.retrieve(services, caller, model)


@router.delete("/{model:path}")
def delete_model(model: str, services: ServicesDep, caller: JobsWriter) -> DeletedOut:
    """Delete a fine-tuned model with its adapter, or a checkpoint with its files; the job and its metrics stay."""
    service.delete(services, caller, model)
    return DeletedOut(id=model, object="model")
