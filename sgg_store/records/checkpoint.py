"""Checkpoints: saved training states that a job can go on from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class CheckpointPermissionRecord(Record):
    """A project's leave to use another project's checkpoint."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (UniqueConstraint("checkpoint_id", "project_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    created_at: Mapped[float] = mapped_column(default=database_now())


class CheckpointRecord(Record):
    """One uploaded checkpoint; its files lie under `object_prefix` and are listed in `manifest`."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    step: Mapped[int]
    object_prefix: Mapped[str]
    manifest: Mapped[dict[str, Any]]  # file name -> {"bytes": int, "sha256": hex}
    metrics: Mapped[dict[str, Any]]  # under OpenAI's names: step, train_loss, valid_loss, ...
    damaged: Mapped[bool] = mapped_column(default=False)  # a resume found bytes that do not match the manifest
    created_at: Mapped[float] = mapped_column(default=database_now())
