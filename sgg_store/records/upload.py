"""Uploads in parts, until they are files."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class UploadRecord(Record):
    """One file that arrives in parts. `status` is pending, completed or cancelled; a pending one can expire."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "project_id", "status"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)  # of all parts that will make the file
    status: Mapped[str] = mapped_column(default="pending")
    file_lifetime_seconds: Mapped[int | None]
    file_id: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    expires_at: Mapped[float]


class UploadPartRecord(Record):
    """One part, whose bytes lie in the object store under `object_key`."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=database_now())
