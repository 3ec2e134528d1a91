"""A job's checkpoints: recorded after their upload, and the first thing a new attempt asks for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.attempts import Lease, guard
from sgg_store.pages import Page, read_page
from sgg_store.records import CheckpointRecord


class Checkpoints:
    """The checkpoints of jobs; at most one for each step of a job."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def append(
        self,
        lease: Lease,
        step: int,
        object_prefix: str,
        manifest: dict[str, dict[str, Any]],
        metrics: dict[str, float],
    ) -> CheckpointRecord:
        """Record a checkpoint whose files are all uploaded under `object_prefix`.

        `manifest` maps each file's name to {"bytes", "sha256"}. A checkpoint that an earlier attempt left of the same
        step is replaced. Raises LeaseLostError.
        """
        guard(self.session, lease)
        self.session.execute(
            delete(CheckpointRecord).where(CheckpointRecord.job_id == lease.job_id, CheckpointRecord.step == step)
        )
        checkpoint = CheckpointRecord(
            id=ids.new_id("ftckpt_"),
            project_id=lease.project_id,
            job_id=lease.job_id,
            attempt=lease.attempt,
            step=step,
            object_prefix=object_prefix,
            manifest=manifest,
            metrics=metrics,
        )
        self.session.add(checkpoint)
        self.session.flush()
        return checkpoint

    def newest(self, job_id: str, *, before_step: int | None = None) -> CheckpointRecord | None:
        """The job's last checkpoint that is not known to be damaged (before `before_step`, if given)."""
        query = select(CheckpointRecord).where(CheckpointRecord.job_id == job_id, CheckpointRecord.damaged.is_(False))
        if before_step is not None:
            query = query.where(CheckpointRecord.step < before_step)
        return self.session.scalars(query.order_by(CheckpointRecord.step.desc()).limit(1)).one_or_none()

    def mark_damaged(self, lease: Lease, checkpoint_id: str) -> CheckpointRecord | None:
        """Note that a checkpoint's bytes do not match its manifest; give the next older one. Raises LeaseLostError."""
        attempt = guard(self.session, lease)
        self.session.execute(
            update(CheckpointRecord)
            .where(CheckpointRecord.id == checkpoint_id, CheckpointRecord.job_id == lease.job_id)
            .values(damaged=True)
        )
        older = self.newest(lease.job_id)
        attempt.start_step = attempt.last_step = older.step if older else 0
        return older

    def list_page(
        self, project_id: str, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[CheckpointRecord]:
        """The job's checkpoints, newest first. A job of another project has none. Raises CursorNotFoundError."""
        query = select(CheckpointRecord).where(
            CheckpointRecord.job_id == job_id,
            CheckpointRecord.project_id == project_id,
            CheckpointRecord.damaged.is_(False),
        )
        cursor = None if after is None else CheckpointRecord.id == after
        return read_page(
            self.session,
            "checkpoint",
            query,
            (CheckpointRecord.step,),
            after=cursor,
            cursor=after,
            limit=limit,
            order="desc",
        )
