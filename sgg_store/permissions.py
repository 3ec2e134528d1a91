"""Which projects may use another project's checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.errors import ModelNotFoundError, RecordNotFoundError
from sgg_store.events import NewEvent
from sgg_store.job_state import JobStatus
from sgg_store.pages import Order, Page, read_page
from sgg_store.records import CheckpointPermissionRecord, CheckpointRecord, JobRecord, ProjectRecord
from sgg_store.transitions import move_job

_NAME = re.compile(r"ft:.+:(?P<job>[0-9a-f]{8}(?:[0-9a-f]{4})?):ckpt-step-(?P<step>[0-9]{1,9})")


class CheckpointPermissions:
    """Permissions on checkpoints, which are known by the names of their models."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def owned(self, project_id: str, name: str) -> tuple[JobRecord, CheckpointRecord]:
        """The project's checkpoint with this name, and its job. Raises RecordNotFoundError."""
        return self._find(name, project_id, permitted=False)

    def usable(self, project_id: str, name: str) -> tuple[JobRecord, CheckpointRecord]:
        """The checkpoint with this name, if the project owns it or may use it. Raises ModelNotFoundError."""
        return self._find(name, project_id, permitted=True)

    def grant(self, checkpoint: CheckpointRecord, project_ids: Sequence[str]) -> list[CheckpointPermissionRecord]:
        """Permit projects to use a checkpoint; granting twice is the same as once. Raises RecordNotFoundError."""
        held = select(CheckpointRecord.id).where(CheckpointRecord.id == checkpoint.id).with_for_update()
        if self.session.scalars(held).one_or_none() is None:  # equal grants take turns; it may be pruned meanwhile
            raise RecordNotFoundError("checkpoint", checkpoint.id)
        granted: list[CheckpointPermissionRecord] = []
        for project_id in dict.fromkeys(project_ids):
            if self.session.get(ProjectRecord, project_id) is None:
                raise RecordNotFoundError("project", project_id)
            permission = self.session.scalars(
                select(CheckpointPermissionRecord).where(
                    CheckpointPermissionRecord.checkpoint_id == checkpoint.id,
                    CheckpointPermissionRecord.project_id == project_id,
                )
            ).one_or_none()
            if permission is None:
                permission = CheckpointPermissionRecord(
                    id=ids.new_id("cp_"), checkpoint_id=checkpoint.id, project_id=project_id
                )
                self.session.add(permission)
                self.session.flush()
            granted.append(permission)
        return granted

    def list_page(
        self, checkpoint: CheckpointRecord, *, project_id: str | None, after: str | None, limit: int, order: Order
    ) -> Page[CheckpointPermissionRecord]:
        """The checkpoint's permissions by the time they were given. Raises CursorNotFoundError."""
        row = CheckpointPermissionRecord
        query = select(row).where(row.checkpoint_id == checkpoint.id)
        if project_id is not None:
            query = query.where(row.project_id == project_id)
        return read_page(
            self.session,
            "permission",
            query,
            (row.created_at, row.id),
            after=after,
            limit=limit,
            order=order,
        )

    def revoke(self, checkpoint: CheckpointRecord, permission_id: str) -> None:
        """Take a permission back. Raises RecordNotFoundError.

        Jobs that start from the checkpoint by it, and do not run, are cancelled: they would keep it for as long as
        their project likes.
        """
        permission = self.session.get(CheckpointPermissionRecord, permission_id)
        if permission is None or permission.checkpoint_id != checkpoint.id:
            raise RecordNotFoundError("permission of this checkpoint", permission_id)
        waiting = select(JobRecord).where(
            JobRecord.project_id == permission.project_id,
            JobRecord.start_checkpoint_id == checkpoint.id,
            JobRecord.status.in_((JobStatus.QUEUED, JobStatus.PAUSED)),
        )
        for job in self.session.scalars(waiting).all():
            told = NewEvent("The job was cancelled: the permission to start from its checkpoint was taken back.")
            move_job(self.session, job.id, job.status, JobStatus.CANCELLED, told)
        self.session.delete(permission)
        self.session.flush()

    def _find(self, name: str, project_id: str, *, permitted: bool) -> tuple[JobRecord, CheckpointRecord]:
        parts = _NAME.fullmatch(name)
        if parts is not None:
            allowed = usable_by(project_id) if permitted else CheckpointRecord.project_id == project_id
            query = (
                select(JobRecord, CheckpointRecord)
                .join(CheckpointRecord, CheckpointRecord.job_id == JobRecord.id)
                .where(
                    allowed,
                    JobRecord.id.endswith(parts["job"]),
                    CheckpointRecord.step == int(parts["step"]),
                    CheckpointRecord.damaged.is_(False),
                )
            )
            for job, checkpoint in self.session.execute(query):
                if job.checkpoint_name(checkpoint.step) == name:
                    return job, checkpoint
        raise (ModelNotFoundError if permitted else RecordNotFoundError)("checkpoint", name)


def is_checkpoint_name(name: str) -> bool:
    """Whether this has the form of a checkpoint's name."""
    return _NAME.fullmatch(name) is not None


def usable_by(project_id: str) -> ColumnElement[bool]:
    """The condition under which a project owns a checkpoint or may use it."""
    permitted = select(CheckpointPermissionRecord.checkpoint_id).where(
        CheckpointPermissionRecord.project_id == project_id
    )
    return or_(CheckpointRecord.project_id == project_id, CheckpointRecord.id.in_(permitted))
