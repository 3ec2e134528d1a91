"""Who is calling: from the Authorization header to a project and scopes."""

from __future__ import annotations

from dataclasses import dataclass

from api.errors import AuthenticationError
from sgg_store.database import Database
from sgg_store.keys import ApiKeys


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a valid API key. Whatever a request touches must belong to `project_id`."""

    project_id: str
    key_id: str
    scopes: frozenset[str]


def authenticate(database: Database, key_secret: bytes, authorization: str | None) -> Caller:
    """Verify the key of an `Authorization: Bearer sgg_...` header. Raises AuthenticationError."""
    if not authorization:
        raise AuthenticationError("No API key was sent. Send the header `Authorization: Bearer <key>`.")
    scheme, _, plaintext = authorization.partition(" ")
    if scheme.lower() != "bearer" or not plaintext.strip():
        raise AuthenticationError("The Authorization header is malformed. Send `Authorization: Bearer <key>`.")
    with database.read() as session:
        key = ApiKeys(session, key_secret).verify(plaintext.strip())
    if key is None:
        raise AuthenticationError(
            "The API key is unknown, expired or revoked. The server's data directory holds the administrator's key "
            "in the file admin-key."
        )
    return Caller(key.project_id, key.id, frozenset(key.scopes))
