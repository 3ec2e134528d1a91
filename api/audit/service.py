"""Reading the audit log."""

from __future__ import annotations

import math
import re
from typing import Literal, cast

from api.audit.schemas import AuditActorOut, AuditKeyOut, AuditOut, AuditProjectOut, SggAuditOut
from api.dependencies import Services
from api.schemas import CursorListOut
from sgg_store.audit import AuditFilter, AuditLog
from sgg_store.errors import CursorNotFoundError
from sgg_store.records import AuditRecord

_ID = re.compile(r"audit_log-(\d{1,18})", re.ASCII)


def list_page(services: Services, wanted: AuditFilter, *, after: str | None, limit: int) -> CursorListOut[AuditOut]:
    """Give one page of the entries of all projects, newest first. Raises CursorNotFoundError."""
    match = None if after is None else _ID.fullmatch(after)
    if after is not None and match is None:
        raise CursorNotFoundError("audit log", after)
    with services.database.read() as session:
        seq = None if match is None else int(match[1])
        page = AuditLog(session).list_page(wanted, after=seq, cursor=after or "", limit=limit)
    return CursorListOut[AuditOut](data=[_out(record) for record in page.items], has_more=page.has_more)


def next_second(moment: float | None) -> float | None:
    """Where the second after this one begins: what happened within a second is told as that second."""
    return None if moment is None else math.floor(moment) + 1.0


def latest(*moments: float | None) -> float | None:
    """The latest of the moments that are given."""
    return max((each for each in moments if each is not None), default=None)


def earliest(*moments: float | None) -> float | None:
    """The earliest of the moments that are given."""
    return min((each for each in moments if each is not None), default=None)


def _out(record: AuditRecord) -> AuditOut:
    return AuditOut(
        id=record.id,
        type=record.action,
        effective_at=int(record.at),
        project=AuditProjectOut(id=record.project_id) if record.project_id else None,
        actor=AuditActorOut(api_key=AuditKeyOut(id=record.key_id)) if record.key_id else None,
        sgg=SggAuditOut(
            outcome=cast(Literal["succeeded", "refused", "failed"], record.outcome),
            status=record.status,
            target=record.target,
            request_id=record.request_id,
            client_address=record.client_address,
            details=record.details,
            repeats=record.repeats,
        ),
    )
