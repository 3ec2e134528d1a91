"""Whose objects lie in a store. To a database that did not make them all of them would be garbage."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.errors import ForeignObjectsError, ObjectExistsError, ObjectNotFoundError
from sgg_store.garbage import find_needed
from sgg_store.ids import new_id
from sgg_store.objects import ObjectStore
from sgg_store.records import InstallationRecord

OWNER = "owner"
"""The object that names the installation whose objects these are."""


def require_own_objects(database: Database, objects: ObjectStore) -> None:
    """Raise ForeignObjectsError if the objects are another database's. Those that are nobody's yet become this one's.

    They do if none is older than the database, or if it needs one of these: then they were there before stores had
    owners. A database that was made beside them needs none.
    """
    with database.begin() as session:
        installation = _installation(session)
    owner = _owner(objects)
    if owner is None and find_needed(database, objects, installation.created_at) is not False:
        with suppress(ObjectExistsError):  # of another process, which was first
            objects.put(OWNER, installation.id.encode())
        owner = _owner(objects)
    if owner != installation.id:
        raise ForeignObjectsError(owner)


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
