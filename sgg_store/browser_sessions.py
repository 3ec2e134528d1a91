"""Sessions of browsers: each stands for an API key and ends with it. Links begin one session, once."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sgg_store.keys import valid_key
from sgg_store.records import ApiKeyRecord, BrowserSessionRecord, SessionKind, database_now

MOST_OF_KEY = 50


class BrowserSessions:
    """Sessions by their tokens of 32 random bytes, of which only a digest is kept."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def begin(self, key_id: str, seconds: float) -> tuple[str, float]:
        """Make a session of `seconds` for a key; gives its token, and when it ends.

        Forgets those that have ended, and the key's oldest where it has more than MOST_OF_KEY.
        """
        expired = delete(BrowserSessionRecord).where(BrowserSessionRecord.expires_at <= database_now())
        self.session.execute(expired.execution_options(synchronize_session=False))
        of_key = (BrowserSessionRecord.key_id == key_id, BrowserSessionRecord.kind == SessionKind.SESSION)
        newest = select(BrowserSessionRecord.token_hash).where(*of_key)
        newest = newest.order_by(BrowserSessionRecord.created_at.desc()).limit(MOST_OF_KEY - 1)
        oldest = delete(BrowserSessionRecord).where(*of_key, BrowserSessionRecord.token_hash.not_in(newest))
        self.session.execute(oldest.execution_options(synchronize_session=False))
        return self._add(SessionKind.SESSION, key_id, seconds)

    def make_link(self, key_id: str, seconds: float) -> str:
        """Make a link that begins one session for a key within `seconds`; gives its token."""
        return self._add(SessionKind.LINK, key_id, seconds)[0]

    def redeem(self, token: str) -> ApiKeyRecord | None:
        """Use up a link, and give its key; None if it was used, has expired, or its key is not valid."""
        used = (
            delete(BrowserSessionRecord)
            .where(
                BrowserSessionRecord.token_hash == _digest(token),
                BrowserSessionRecord.kind == SessionKind.LINK,
                BrowserSessionRecord.expires_at > database_now(),
            )
            .returning(BrowserSessionRecord.key_id)
            .execution_options(synchronize_session=False)
        )
        key_id = self.session.execute(used).scalar_one_or_none()
        if key_id is None:
            return None
        return self.session.scalars(select(ApiKeyRecord).where(ApiKeyRecord.id == key_id, valid_key())).one_or_none()

    def find(self, token: str) -> tuple[ApiKeyRecord, float] | None:
        """The key that a session stands for, and when the session ends; None if it or the key has ended."""
        query = (
            select(ApiKeyRecord, BrowserSessionRecord.expires_at)
            .join(BrowserSessionRecord, BrowserSessionRecord.key_id == ApiKeyRecord.id)
            .where(
                BrowserSessionRecord.token_hash == _digest(token),
                BrowserSessionRecord.kind == SessionKind.SESSION,
                BrowserSessionRecord.expires_at > database_now(),
                valid_key(),
            )
        )
        found = self.session.execute(query).one_or_none()
        return None if found is None else (found[0], found[1])

    def end(self, token: str) -> None:
        """End a session; does nothing if there is none."""
        query = delete(BrowserSessionRecord).where(BrowserSessionRecord.token_hash == _digest(token))
        self.session.execute(query.execution_options(synchronize_session=False))

    def _add(self, kind: SessionKind, key_id: str, seconds: float) -> tuple[str, float]:
        token = secrets.token_urlsafe(32)
        ends_at = self.session.execute(select(database_now())).scalar_one() + seconds
        self.session.add(BrowserSessionRecord(token_hash=_digest(token), kind=kind, key_id=key_id, expires_at=ends_at))
        self.session.flush()
        return token, ends_at


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
