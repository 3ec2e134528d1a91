"""API keys, without their secrets."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class ApiKeyRecord(Record):
    """One key. Only an HMAC of its secret is kept, so the table alone opens nothing."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    scopes: Mapped[list[str]]
    secret_hash: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=database_now())
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]  # to the minute
