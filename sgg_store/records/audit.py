"""The audit log: who changed what, and who was refused."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class AuditRecord(Record):
    """One call that changed something or was refused. Has no foreign keys: it outlives what it speaks of."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index(None, "project_id", "seq"),
        Index(None, "key_id", "seq"),
        Index(None, "target", "seq"),
        Index(None, "outcome", "seq"),
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[float] = mapped_column(default=database_now(), index=True)
    action: Mapped[str]  # as in job.created
    outcome: Mapped[str]  # succeeded, refused, failed
    status: Mapped[int]  # of the answer
    project_id: Mapped[str | None]  # of the key; none if no valid key came with the call
    key_id: Mapped[str | None]
    target: Mapped[str | None]  # id of what was changed, or was to be
    request_id: Mapped[str]
    client_address: Mapped[str | None]
    details: Mapped[dict[str, Any]]  # values that were set; never secrets, never contents of files
    repeats: Mapped[int] = mapped_column(default=0)  # refusals left out of the log since the one before

    @property
    def id(self) -> str:
        """The entry's public id."""
        return f"audit_log-{self.seq}"
