"""Who is calling: from an API key, or a browser's session that stands for one, to a project and scopes."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from api.audit.trail import READING, Trail
from api.errors import AuthenticationError, CrossSiteRequestError, SessionEndedError
from sgg_store.browser_sessions import BrowserSessions
from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.keys import ApiKeys
from sgg_store.logs import get_logger

_log = get_logger(__name__)

CSRF_HEADER = "x-csrf-token"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a valid API key stands for."""

    project_id: str
    key_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a valid API key. Whatever a request touches must belong to `project_id`."""

    project_id: str
    key_id: str
    scopes: frozenset[str]
    trail: Trail
    """What the audit log will say of this request; write it in the transaction that changes something."""


class KeyRing:
    """Verifies API keys, and trusts one that was good for `seconds` before it asks the database again.

    So a stream of requests costs no query for its key, and a key that is revoked through another process opens nothing
    `seconds` later. It holds digests, never keys.
    """

    MOST = 10_000  # keys that are remembered at once

    def __init__(self, database: Database, server_secret: bytes, seconds: float) -> None:
        self._database = database
        self._server_secret = server_secret
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[Identity, float]] = {}
        self._forgotten = 0  # how many times something was forgotten

    def identify(self, plaintext: str) -> Identity | None:
        """Give what the key stands for, unless it is unknown, expired or revoked."""
        return self._identified("key", plaintext, self._verified)

    def identify_session(self, token: str) -> Identity | None:
        """Give what a browser's session stands for, unless it or its key has ended."""
        return self._identified("session", token, self._found)

    def remembered(self, plaintext: str) -> Identity | None:
        """Give what the key stands for, if that is known without asking the database."""
        return self._known_as(_digest("key", plaintext))

    def forget_session(self, token: str) -> None:
        """Ask the database about this session the next time it comes."""
        with self._lock:
            self._forgotten += 1
            self._known.pop(_digest("session", token), None)

    def _known_as(self, digest: bytes) -> Identity | None:
        identity, until = self._known.get(digest, (None, 0.0))
        return identity if time.monotonic() < until else None

    def _identified(self, kind: str, secret: str, look_up: Callable[[str], Identity | None]) -> Identity | None:
        digest = _digest(kind, secret)
        now = time.monotonic()
        identity = self._known_as(digest)
        if identity is not None:
            return identity
        forgotten = self._forgotten
        identity = look_up(secret)
        with self._lock:
            self._known.pop(digest, None)
            # what was looked up before something was forgotten may be just that
            if identity is not None and self._seconds > 0 and forgotten == self._forgotten:
                if len(self._known) >= self.MOST:
                    self._known.clear()
                self._known[digest] = identity, now + self._seconds
        return identity

    def forget(self, key_id: str) -> None:
        """Ask the database about this key the next time it comes."""
        with self._lock:
            self._forgotten += 1
            self._known = {digest: known for digest, known in self._known.items() if known[0].key_id != key_id}

    def _verified(self, plaintext: str) -> Identity | None:
        with self._database.read() as session:
            key = ApiKeys(session, self._server_secret).verify(plaintext)
            if key is None:
                return None
            fresh = ApiKeys.used_lately(session, key)
        if not fresh:
            self._note_use(key.id)
        return Identity(key.project_id, key.id, frozenset(key.scopes))

    def _found(self, token: str) -> Identity | None:
        with self._database.read() as session:
            found = BrowserSessions(session).find(token)
            if found is None:
                return None
            key = found[0]
            fresh = ApiKeys.used_lately(session, key)
        if not fresh:
            self._note_use(key.id)
        return Identity(key.project_id, key.id, frozenset(key.scopes))

    def _note_use(self, key_id: str) -> None:
        try:
            with self._database.begin() as session:
                ApiKeys.note_use(session, key_id)
        except StoreError as error:  # the caller wants something else; a disk that is full still answers readers
            _log.warning("the last use of a key is not noted", key_id=key_id, error=str(error))


def authenticate(keys: KeyRing, request: HTTPConnection) -> Identity:
    """Verify the key of an `Authorization: Bearer sgg_...` header, or else the session of a browser's cookie.

    Raises AuthenticationError; CrossSiteRequestError if a session is to change something without its token, which only
    the dashboard's own pages can know.
    """
    authorization = request.headers.get("authorization")
    token = session_token(request)
    if not authorization and token:
        identity = keys.identify_session(token)
        if identity is None:
            raise SessionEndedError("The session has ended. Sign in again.")
        sent = request.headers.get(CSRF_HEADER, "")
        if request.scope["method"] not in READING and not hmac.compare_digest(
            csrf_token(token).encode(), sent.encode()
        ):
            raise CrossSiteRequestError(
                f"The request lacks the right {CSRF_HEADER} header for its session. Send the value that "
                "GET /dashboard/session gives, or use an API key."
            )
        return identity
    return identify_key(keys, authorization)


def identify_key(keys: KeyRing, authorization: str | None) -> Identity:
    """Verify the key of an `Authorization: Bearer sgg_...` header. Raises AuthenticationError."""
    if not authorization:
        raise AuthenticationError("No API key was sent. Send the header `Authorization: Bearer <key>`.")
    scheme, _, plaintext = authorization.partition(" ")
    if scheme.lower() != "bearer" or not plaintext.strip():
        raise AuthenticationError("The Authorization header is malformed. Send `Authorization: Bearer <key>`.")
    identity = keys.identify(plaintext.strip())
    if identity is None:
        raise AuthenticationError(
            "The API key is unknown, expired or revoked. The server's data directory holds the administrator's key "
            "in the file admin-key; if that one was revoked, a restart of the server makes a new one."
        )
    return identity


def session_cookie(request: HTTPConnection) -> str:
    """Name of the session's cookie: browsers tell the ports of one machine apart by nothing else."""
    return f"sgg_session_{request.url.port or request.url.scheme}"


def session_token(request: HTTPConnection) -> str | None:
    """The token of the session that a browser sends."""
    return request.cookies.get(session_cookie(request))


def csrf_token(token: str) -> str:
    """What a session sends along to change something. Other sites cannot have it, nor the token from it."""
    return _digest("csrf", token).hex()


def _digest(kind: str, secret: str) -> bytes:
    return hashlib.sha256(f"{kind}:{secret}".encode("utf-8", "surrogatepass")).digest()
