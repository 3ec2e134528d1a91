"""Files: uploaded examples and published results."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class FileRecord(Record):
    """One file. Its bytes lie in the object store under `object_key`; `filename` is display text only."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    object_key: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(default="processed")
    status_details: Mapped[str | None]
    facts: Mapped[dict[str, Any] | None]  # what the parser found: kind, examples, labels, warnings
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float] = mapped_column(default=database_now())
    expires_at: Mapped[float | None]
