"""API keys: made once, shown once, stored as an HMAC."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError
from sgg_store.pages import Page, read_page
from sgg_store.records import ApiKeyRecord, ProjectRecord, database_now

SCOPES = ("jobs:read", "jobs:write", "files:read", "files:write", "models:try", "admin")
DEFAULT_PROJECT_ID = "proj-default"
ADMIN_KEY_FILE = "admin-key"
KEY_SECRET_FILE = "key-secret"  # nosec B105 # the name of a file
LAST_USE_SECONDS = 60.0  # how exact the time of a key's last use is


class ApiKeys:
    """The API keys of projects. `server_secret` keys the HMAC; see `load_key_secret`."""

    def __init__(self, session: Session, server_secret: bytes) -> None:
        self.session = session
        self._server_secret = server_secret

    def create(
        self, project_id: str, scopes: Collection[str], *, name: str = "", expires_at: float | None = None
    ) -> tuple[ApiKeyRecord, str]:
        """Make a key. The second value is its plain text `sgg_<id>_<secret>`, which is not kept anywhere.

        Raises ValueError for an unknown scope.
        """
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown:
            raise ValueError(f"Unknown scopes: {', '.join(unknown)}. Known ones: {', '.join(SCOPES)}.")
        secret = secrets.token_urlsafe(32)
        key = ApiKeyRecord(
            id=secrets.token_hex(8),
            project_id=project_id,
            name=name,
            scopes=sorted(scopes),
            secret_hash=self._hash(secret),
            expires_at=expires_at,
        )
        self.session.add(key)
        self.session.flush()
        return key, f"sgg_{key.id}_{secret}"

    def verify(self, plaintext: str) -> ApiKeyRecord | None:
        """The key with this plain text, unless it is unknown, expired or revoked. Compares in constant time."""
        product, _, rest = plaintext.partition("_")
        key_id, _, secret = rest.partition("_")
        if product != "sgg" or not (key_id.isascii() and key_id.isalnum()):
            return None
        query = select(ApiKeyRecord).where(ApiKeyRecord.id == key_id, valid_key())
        key = self.session.scalars(query).one_or_none()
        known = key.secret_hash if key is not None else "0" * 64
        return key if hmac.compare_digest(known, self._hash(secret)) else None

    @staticmethod
    def used_lately(session: Session, key: ApiKeyRecord) -> bool:
        """Whether the key's last use is known to the minute."""
        now = session.execute(select(database_now())).scalar_one()
        return key.last_used_at is not None and key.last_used_at > now - LAST_USE_SECONDS

    @staticmethod
    def note_use(session: Session, key_id: str) -> None:
        """Remember that the key is used now."""
        session.execute(
            update(ApiKeyRecord)
            .where(ApiKeyRecord.id == key_id)
            .values(last_used_at=database_now())
            .execution_options(synchronize_session=False)
        )

    def get(self, project_id: str, key_id: str) -> ApiKeyRecord:
        """The key, also if it is expired or revoked. Raises RecordNotFoundError."""
        query = select(ApiKeyRecord).where(ApiKeyRecord.id == key_id, ApiKeyRecord.project_id == project_id)
        key = self.session.scalars(query).one_or_none()
        if key is None:
            raise RecordNotFoundError("API key", key_id)
        return key

    def list_page(
        self, project_id: str, *, after: str | None = None, limit: int = 20, revoked: bool = False
    ) -> Page[ApiKeyRecord]:
        """The project's keys, oldest first; the revoked ones only if they are asked for. Raises CursorNotFoundError."""
        return read_page(
            self.session,
            "API key",
            select(ApiKeyRecord).where(ApiKeyRecord.project_id == project_id),
            (ApiKeyRecord.created_at, ApiKeyRecord.id),
            only=() if revoked else (ApiKeyRecord.revoked_at.is_(None),),
            after=after,
            limit=limit,
            order="asc",
        )

    def revoke(self, project_id: str, key_id: str) -> ApiKeyRecord:
        """Make a key useless from now on. Raises RecordNotFoundError."""
        query = select(ApiKeyRecord).where(ApiKeyRecord.id == key_id, ApiKeyRecord.project_id == project_id)
        key = self.session.scalars(query.with_for_update()).one_or_none()
        if key is None:
            raise RecordNotFoundError("API key", key_id)
        if key.revoked_at is None:
            key.revoked_at = self.session.execute(select(database_now())).scalar_one()
            self.session.flush()
        return key

    def _hash(self, secret: str) -> str:
        return hmac.new(self._server_secret, secret.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def valid_key() -> ColumnElement[bool]:
    """The condition that a key is neither revoked nor expired."""
    unexpired = or_(ApiKeyRecord.expires_at.is_(None), ApiKeyRecord.expires_at > database_now())
    return and_(ApiKeyRecord.revoked_at.is_(None), unexpired)


def load_key_secret(data_dir: Path) -> bytes:
    """The server's secret of 32 bytes, made at the first call and kept in `data_dir` with mode 0600."""
    path = data_dir / KEY_SECRET_FILE
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, secrets.token_hex(32), replace=False)
    return bytes.fromhex(path.read_text().strip())


def ensure_project(session: Session, project_id: str = DEFAULT_PROJECT_ID) -> ProjectRecord:
    """The project, made if there is none with this id."""
    project = session.get(ProjectRecord, project_id)
    if project is None:
        project = ProjectRecord(id=project_id, name="Default")
        session.add(project)
        session.flush()
    return project


def ensure_admin_key(database: Database, data_dir: Path) -> str:
    """The administrator's key in `<data_dir>/admin-key` (mode 0600), made anew unless the file holds a valid one."""
    path = data_dir / ADMIN_KEY_FILE
    secret = load_key_secret(data_dir)
    with database.begin() as session:
        keys = ApiKeys(session, secret)
        written = path.read_text().strip() if path.exists() else ""
        if keys.verify(written) is not None:
            return written
        ensure_project(session)
        plaintext = keys.create(DEFAULT_PROJECT_ID, SCOPES, name="administrator")[1]
    _write_private(path, plaintext, replace=True)
    return plaintext


def _write_private(path: Path, text: str, *, replace: bool) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            part.replace(path)
        elif not path.exists():
            _link_unless_taken(part, path)
    finally:
        part.unlink(missing_ok=True)


def _link_unless_taken(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        return  # another process was first; its secret is the one that counts
