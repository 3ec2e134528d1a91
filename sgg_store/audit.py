"""The audit log: every call that changed something, and those that were refused. Entries are never changed."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from sgg_store.pages import Page, read_page
from sgg_store.records import AuditRecord

Outcome = Literal["succeeded", "refused", "failed"]
KEPT_REFUSALS = 10_000
PRUNE_EVERY = 100  # entries


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What is to be remembered of a call. `details` holds values that were set: no secrets, no contents of files."""

    action: str
    outcome: Outcome
    status: int
    request_id: str
    client_address: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    target: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    repeats: int = 0
    """How many refusals like this one were left out before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries are wanted. An empty collection or None wants all; times are Unix seconds, the end excluded."""

    project_ids: Collection[str] = ()
    key_ids: Collection[str] = ()
    actions: Collection[str] = ()
    targets: Collection[str] = ()
    outcomes: Collection[str] = ()
    since: float | None = None
    until: float | None = None

    def apply(self, query: Select[AuditRecord]) -> Select[AuditRecord]:
        """Narrow a query down to the wanted entries."""
        columns = (
            (AuditRecord.project_id, self.project_ids),
            (AuditRecord.key_id, self.key_ids),
            (AuditRecord.action, self.actions),
            (AuditRecord.target, self.targets),
            (AuditRecord.outcome, self.outcomes),
        )
        for column, wanted in columns:
            if wanted:
                query = query.where(column.in_(wanted))
        if self.since is not None:
            query = query.where(AuditRecord.at >= self.since)
        if self.until is not None:
            query = query.where(AuditRecord.at < self.until)
        return query


class AuditLog:
    """Adds entries in the transaction of what they tell of, and reads them back."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, entry: AuditEntry) -> None:
        """Add an entry. Of entries that are no successes only the newest `KEPT_REFUSALS` or so stay."""
        seq = self.session.execute(
            _new_entry(), {each.name: getattr(entry, each.name) for each in fields(entry)}
        ).scalar_one()
        if entry.outcome != "succeeded" and seq % PRUNE_EVERY == 0:
            self._prune()

    def list_page(
        self, wanted: AuditFilter | None = None, *, after: int | None = None, cursor: str = "", limit: int = 20
    ) -> Page[AuditRecord]:
        """Entries, newest first, going on after the one with the number `after`. Raises CursorNotFoundError."""
        return read_page(
            self.session,
            "audit log",
            (wanted or AuditFilter()).apply(select(AuditRecord)),
            (AuditRecord.seq,),
            after=after,
            cursor=cursor,
            limit=limit,
            order="desc",
        )

    def _prune(self) -> None:
        """Remove the oldest refusals beyond `KEPT_REFUSALS`: strangers must not be able to fill the disk."""
        refusals = select(AuditRecord.seq).where(AuditRecord.outcome != "succeeded")
        oldest_kept = refusals.order_by(AuditRecord.seq.desc()).offset(KEPT_REFUSALS).limit(1)
        bound = self.session.scalars(oldest_kept).one_or_none()
        if bound is not None:
            self.session.execute(
                delete(AuditRecord)
                .where(AuditRecord.outcome != "succeeded", AuditRecord.seq <= bound)
                .execution_options(synchronize_session=False)
            )


@functools.cache  # to build a statement costs more than to run it
def _new_entry() -> ReturningInsert[int]:
    table = AuditRecord.metadata.tables[AuditRecord.__tablename__]
    return insert(table).returning(table.c.seq)
