"""Chores: recurring work that any process may do, but only one at a time."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record


class ChoreRecord(Record):
    """When a chore was last begun."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(primary_key=True)
    begun_at: Mapped[float]
