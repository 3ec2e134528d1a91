"""Which models there are: the catalogue's, and the project's own."""

from __future__ import annotations

from collections.abc import Sequence

from api.auth import Caller
from api.dependencies import Services
from api.errors import PermissionDeniedError
from api.models.schemas import ModelOut, SggModelOut
from sgg_core.catalogue import BaseModelEntry
from sgg_store.checkpoints import Checkpoints
from sgg_store.cleaning import delete_objects
from sgg_store.errors import ModelNotFoundError
from sgg_store.jobs import Jobs
from sgg_store.models import Models
from sgg_store.permissions import CheckpointPermissions, is_checkpoint_name
from sgg_store.records import CheckpointRecord, FileRecord, JobRecord


def list_all(services: Services, caller: Caller) -> list[ModelOut]:
    """Give the base models, then the caller's fine-tuned models, oldest first."""
    with services.database.read() as session:
        made = [_fine_tuned(job) for job in Jobs(session).list_models(caller.project_id)]
    return [_base(entry) for entry in services.catalogue().entries()] + made


def retrieve(services: Services, caller: Caller, name: str) -> ModelOut:
    """Give one model, also that of a checkpoint which the caller may use. Raises ModelNotFoundError."""
    entry = _entry(services, name)
    if entry is not None:
        return _base(entry)
    with services.database.read() as session:
        if is_checkpoint_name(name):
            job, checkpoint = CheckpointPermissions(session).usable(caller.project_id, name)
            return _checkpoint(job, checkpoint, Checkpoints(session).files_of([checkpoint.id])[checkpoint.id])
        return _fine_tuned(Jobs(session).get_by_fine_tuned_model(caller.project_id, name))


def delete(services: Services, caller: Caller, name: str) -> None:
    """Delete a fine-tuned model with its adapter, or a checkpoint with its files; the job and its metrics stay.

    Raises ModelNotFoundError, ModelInUseError, or PermissionDeniedError for what is not the caller's own.
    """
    if _entry(services, name) is not None:
        raise PermissionDeniedError(
            f"{name!r} is a base model, which the API cannot delete. If it was added, run `sgg models remove` where "
            "the server runs."
        )
    if retrieve(services, caller, name).owned_by != caller.project_id:
        raise PermissionDeniedError(f"{name!r} is a checkpoint of another project, which alone can delete it.")
    with services.database.begin() as session:
        deleted = Models(session, caller.project_id).delete(name)
        caller.trail.write(session, name)
    delete_objects(services.objects, deleted.folders, deleted.keys)


def _entry(services: Services, name: str) -> BaseModelEntry | None:
    return next((entry for entry in services.catalogue().entries() if entry.name == name), None)


def _base(entry: BaseModelEntry) -> ModelOut:
    details = entry.model_dump(include={"kind", "license", "description", "parameters", "context_tokens"})
    return ModelOut(id=entry.name, created=0, owned_by="catalogue", sgg=SggModelOut(type="base", **details))


def _fine_tuned(job: JobRecord) -> ModelOut:
    if job.fine_tuned_model is None or job.finished_at is None:
        raise ModelNotFoundError("model", job.id)
    return ModelOut(
        id=job.fine_tuned_model,
        created=int(job.finished_at),
        owned_by=job.project_id,
        sgg=SggModelOut(
            type="fine-tuned",
            base_model=job.base_model,
            method=job.spec["method"],
            job=job.id,
            result_files=tuple(job.result_file_ids),
        ),
    )


def _checkpoint(job: JobRecord, checkpoint: CheckpointRecord, files: Sequence[FileRecord]) -> ModelOut:
    return ModelOut(
        id=job.checkpoint_name(checkpoint.step),
        created=int(checkpoint.created_at),
        owned_by=job.project_id,
        sgg=SggModelOut(
            type="checkpoint",
            base_model=job.base_model,
            method=job.spec["method"],
            job=job.id,
            result_files=tuple(file.id for file in files),
        ),
    )
