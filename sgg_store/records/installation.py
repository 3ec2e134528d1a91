"""Which installation this database belongs to."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class InstallationRecord(Record):
    """One row: an id that the object store has, too, and since when the database has it."""

    __tablename__ = "installations"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(default=database_now())
