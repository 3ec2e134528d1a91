"""Deleting what jobs made: a fine-tuned model with its adapter, or a checkpoint with its files."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.errors import ModelInUseError, ModelNotFoundError
from sgg_store.files import Files
from sgg_store.jobs import Jobs
from sgg_store.permissions import CheckpointPermissions, is_checkpoint_name
from sgg_store.records import CheckpointRecord, FileRecord, database_now


@dataclass(frozen=True, slots=True)
class DeletedModel:
    """Where the objects of a model whose rows are deleted lie: folders, and single keys."""

    folders: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class Models:
    """The models that jobs of a project made, known by their names."""

    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def delete(self, name: str) -> DeletedModel:
        """Delete a model or a checkpoint; its objects are for the caller, after the commit. The job stays.

        Raises ModelNotFoundError, or ModelInUseError if a job that is not finished needs it.
        """
        return self._delete_checkpoint(name) if is_checkpoint_name(name) else self._delete_fine_tuned(name)

    def _delete_fine_tuned(self, name: str) -> DeletedModel:
        job = Jobs(self.session).get_by_fine_tuned_model(self.project_id, name)
        job.model_deleted_at = self.session.execute(select(database_now())).scalar_one()
        self.session.flush()  # which holds the job, before its files as when jobs are deleted
        bundle = self.session.scalars(
            select(FileRecord).where(FileRecord.id == job.bundle_file_id).with_for_update()
        ).one_or_none()
        if bundle is None:  # it has expired, say
            return DeletedModel()
        users = Files(self.session).jobs_using(bundle.id)
        if users:
            raise ModelInUseError(name, tuple(users))
        self.session.delete(bundle)
        self.session.flush()
        return DeletedModel(keys=(bundle.object_key,))

    def _delete_checkpoint(self, name: str) -> DeletedModel:
        _, found = CheckpointPermissions(self.session).usable(self.project_id, name)
        mine = (CheckpointRecord.id == found.id, CheckpointRecord.project_id == self.project_id)
        checkpoint = self.session.scalars(select(CheckpointRecord).where(*mine).with_for_update()).one_or_none()
        if checkpoint is None:
            raise ModelNotFoundError("checkpoint", name)
        users = Files(self.session).jobs_needing(checkpoint)
        if users:
            raise ModelInUseError(name, tuple(users))
        self.session.delete(checkpoint)
        self.session.flush()
        return DeletedModel(folders=(checkpoint.object_prefix,))
