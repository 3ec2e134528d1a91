"""What happens to API keys."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.auth import Caller
from api.dependencies import Services
from api.keys.schemas import KeyIn, KeyOut, KeyOwnerOut, KeyStatus, NewKeyOut, ServiceAccountOut, SggKeyOut
from api.schemas import CursorListOut
from sgg_store.keys import ApiKeys
from sgg_store.projects import Projects
from sgg_store.records import ApiKeyRecord


def create(services: Services, caller: Caller, project_id: str, key_in: KeyIn) -> NewKeyOut:
    """Make a key of a project. Raises RecordNotFoundError."""
    now = services.database.now()
    expires_at = None if key_in.expires_in_seconds is None else now + key_in.expires_in_seconds
    with services.database.begin() as session:
        Projects(session).get(project_id)
        key, plaintext = _keys(services, session).create(
            project_id, set(key_in.scopes), name=key_in.name, expires_at=expires_at
        )
        details = {"project": project_id, "name": key.name, "scopes": key.scopes, "expires_at": key.expires_at}
        caller.trail.write(session, key.id, **details)
    return NewKeyOut(value=plaintext, **_out(key, now).model_dump())


def list_page(
    services: Services, project_id: str, *, after: str | None, limit: int, revoked: bool
) -> CursorListOut[KeyOut]:
    """Give one page of a project's keys, oldest first. Raises RecordNotFoundError."""
    now = services.database.now()
    with services.database.read() as session:
        Projects(session).get(project_id)
        page = _keys(services, session).list_page(project_id, after=after, limit=limit, revoked=revoked)
    return CursorListOut[KeyOut](data=[_out(key, now) for key in page.items], has_more=page.has_more)


def retrieve(services: Services, project_id: str, key_id: str) -> KeyOut:
    """Give a key. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return _out(_keys(services, session).get(project_id, key_id), services.database.now())


def revoke(services: Services, caller: Caller, project_id: str, key_id: str) -> None:
    """Make a key useless. Raises RecordNotFoundError."""
    with services.database.begin() as session:
        key = _keys(services, session).revoke(project_id, key_id)
        caller.trail.write(session, key.id, project=project_id, name=key.name)
    services.keys.forget(key_id)


def _keys(services: Services, session: Session) -> ApiKeys:
    return ApiKeys(session, services.key_secret)


def _out(key: ApiKeyRecord, now: float) -> KeyOut:
    expired = key.expires_at is not None and key.expires_at <= now
    status: KeyStatus = "revoked" if key.revoked_at is not None else "expired" if expired else "active"
    account = ServiceAccountOut(
        id=key.id,
        name=key.name,
        role="owner" if "admin" in key.scopes else "member",
        created_at=int(key.created_at),
    )
    return KeyOut(
        id=key.id,
        name=key.name,
        created_at=int(key.created_at),
        expires_at=_seconds(key.expires_at),
        last_used_at=_seconds(key.last_used_at),
        redacted_value=f"sgg_{key.id}_...",
        owner=KeyOwnerOut(service_account=account),
        owner_project_access="active" if status == "active" else "inactive",
        sgg=SggKeyOut(scopes=tuple(key.scopes), status=status, revoked_at=_seconds(key.revoked_at)),
    )


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
