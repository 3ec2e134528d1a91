"""Signing in and out."""

from __future__ import annotations

from api.audit.trail import Trail
from api.auth import csrf_token, identify_key
from api.dashboard.schemas import SessionIn, SessionOut
from api.dependencies import Services
from api.errors import SessionEndedError
from sgg_store.browser_sessions import BrowserSessions
from sgg_store.keys import ApiKeys
from sgg_store.records import ApiKeyRecord

USED_UP = (
    "This link was used, or is older than ten minutes. Sign in with an API key, or restart the server for another."
)


def sign_in(services: Services, session_in: SessionIn, trail: Trail) -> tuple[str, SessionOut]:
    """Begin a session; gives its token, too. Raises AuthenticationError, for a used link SessionEndedError."""
    identity = None if session_in.key is None else identify_key(services.keys, f"Bearer {session_in.key}")
    with services.database.begin() as session:
        sessions = BrowserSessions(session)
        key: ApiKeyRecord | None
        if identity is not None:
            key = ApiKeys(session, services.key_secret).get(identity.project_id, identity.key_id)
        else:
            key = sessions.redeem(session_in.link or "")
        if key is None:
            raise SessionEndedError(USED_UP)
        token, ends_at = sessions.begin(key.id, services.settings.session_seconds)
        trail.project_id, trail.key_id = key.project_id, key.id
        trail.write(session, key.id)
    return token, _out(key, ends_at, token)


def current(services: Services, token: str | None) -> SessionOut | None:
    """Describe the session with this token; None if it, or its key, has ended."""
    if not token:
        return None
    with services.database.read() as session:
        found = BrowserSessions(session).find(token)
    return None if found is None else _out(*found, token)


def sign_out(services: Services, token: str) -> None:
    """End a session."""
    with services.database.begin() as session:
        BrowserSessions(session).end(token)
    services.keys.forget_session(token)


def _out(key: ApiKeyRecord, ends_at: float, token: str) -> SessionOut:
    return SessionOut(
        project_id=key.project_id,
        key_id=key.id,
        key_name=key.name,
        scopes=tuple(key.scopes),
        expires_at=int(ends_at),
        csrf_token=csrf_token(token),
    )
