"""Whose objects lie in a store. To a database that did not make them all of them would be garbage."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.errors import ForeignObjectsError, ObjectExistsError, ObjectNotFoundError
from sgg_store.garbage import find_needed
from sgg_store.ids import new_id
from sgg_store.objects import ObjectStore
from sgg_store.records import ApiKeyRecord, CheckpointRecord, FileRecord, InstallationRecord

OWNER = "owner"
"""The object that names the installation whose objects these are."""


def require_own_objects(database: Database, objects: ObjectStore, *, claim: bool = True) -> None:
    """Raise ForeignObjectsError if the objects are another database's. Those that are nobody's yet become this one's.

    They do if none is older than the database, if it needs one of these, or if it has needed none for long: then they
    were there before stores had owners. A database that was made beside them needs none. Without `claim` nothing is
    written.
    """
    with database.begin() as session:
        installation = _installation(session)
    owner = _owner(objects)
    if owner is None and _may_claim(database, objects, installation.created_at):
        if not claim:
            return
        with suppress(ObjectExistsError):  # of another process, which was first
            objects.put(OWNER, installation.id.encode())
        owner = _owner(objects)
    if owner != installation.id:
        raise ForeignObjectsError(owner)


def adopt_objects(database: Database, objects: ObjectStore) -> None:
    """Make the objects this database's, whosever they are: somebody who knows has said so."""
    with database.begin() as session:
        installation = _installation(session)
    objects.put(OWNER, installation.id.encode(), create_only=False)


def _may_claim(database: Database, objects: ObjectStore, made_at: float) -> bool:
    found = find_needed(database, objects, made_at)
    if found is not False:
        return True
    with database.read() as session:  # one of old that needs nothing, or one that was made beside these objects?
        is_old = session.scalar(select(exists().where(ApiKeyRecord.created_at < made_at)))
        names = any(session.scalar(select(exists(select(record.id)))) for record in (FileRecord, CheckpointRecord))
    return bool(is_old) and not names


def _installation(session: Session) -> InstallationRecord:
    found = session.scalars(select(InstallationRecord)).first()
    if found is None:
        found = InstallationRecord(id=new_id("inst-"))
        session.add(found)
        session.flush()
        session.refresh(found)
    return found


def _owner(objects: ObjectStore) -> str | None:
    try:
        return b"".join(objects.open(OWNER)).decode()
    except ObjectNotFoundError:
        return None
