"""Sessions of browsers, and the links that begin them. Their tokens are not kept."""

from __future__ import annotations

import enum

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class SessionKind(enum.StrEnum):
    """A link is good for beginning one session; a session stands for its key."""

    LINK = "link"
    SESSION = "session"


class BrowserSessionRecord(Record):
    """One session or link. It can do what its key can, for as long as the key is valid."""

    __tablename__ = "browser_sessions"
    __table_args__ = (Index(None, "expires_at"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[SessionKind]
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[float] = mapped_column(default=database_now())
    expires_at: Mapped[float]
