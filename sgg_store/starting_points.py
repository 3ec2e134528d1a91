"""What a new job can start from, by the names that callers know: checkpoints, models, and uploaded adapters."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.errors import RecordNotFoundError
from sgg_store.files import Files
from sgg_store.jobs import Jobs
from sgg_store.new_jobs import Start
from sgg_store.permissions import CheckpointPermissions, is_checkpoint_name
from sgg_store.records import CheckpointRecord, FileRecord, JobRecord


@dataclass(frozen=True, slots=True)
class FoundStart:
    """A starting point and where it comes from: an earlier job, or an uploaded file."""

    start: Start
    job: JobRecord | None = None
    file: FileRecord | None = None


class StartingPoints:
    """Finds starting points of a project. One of another is not found, but a checkpoint that the project may use."""

    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id

    def find(self, name: str) -> FoundStart:
        """The checkpoint (by id or name), fine-tuned model or uploaded file called `name`. Raises RecordNotFoundError.

        A model is the adapter that its job published; its bundle must not be deleted.
        """
        if name.startswith("file-"):
            file = Files(self.session).get(self.project_id, name)
            return FoundStart(Start(name, file_id=file.id), file=file)
        if name.startswith("ftckpt_"):
            return self._checkpoint(name)
        if is_checkpoint_name(name):
            job, checkpoint = CheckpointPermissions(self.session).usable(self.project_id, name)
            return FoundStart(Start(name, checkpoint_id=checkpoint.id), job=job)
        job = Jobs(self.session).get_by_fine_tuned_model(self.project_id, name)
        try:
            bundle = Files(self.session).get(self.project_id, job.bundle_file_id or "")
        except RecordNotFoundError:  # it may have expired
            raise RecordNotFoundError("adapter of the model", name) from None
        return FoundStart(Start(name, file_id=bundle.id), job=job)

    def _checkpoint(self, checkpoint_id: str) -> FoundStart:
        query = select(CheckpointRecord).where(
            CheckpointRecord.id == checkpoint_id,
            CheckpointRecord.project_id == self.project_id,
            CheckpointRecord.damaged.is_(False),
        )
        checkpoint = self.session.scalars(query).one_or_none()
        if checkpoint is None:
            raise RecordNotFoundError("checkpoint", checkpoint_id)
        job = Jobs(self.session).get(self.project_id, checkpoint.job_id)
        return FoundStart(Start(checkpoint_id, checkpoint_id=checkpoint_id), job=job)
