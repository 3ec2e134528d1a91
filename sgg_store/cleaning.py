"""Cleaning up: what has outlived its time goes, first as rows, then as objects. The next run finds what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from sqlalchemy import exc, update

from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.errors import DatabaseUnavailableError, ForeignObjectsError, StoreError
from sgg_store.files import Files
from sgg_store.garbage import find_garbage
from sgg_store.logs import get_logger
from sgg_store.objects import ObjectStore
from sgg_store.ownership import require_own_objects
from sgg_store.records import ChoreRecord, database_now
from sgg_store.settings import StoreSettings
from sgg_store.trials import Trials
from sgg_store.uploads import Uploads
from sgg_store.webhooks import Webhooks

_log = get_logger(__name__)
_CHORE = "cleaning"
_BATCH = 100


@dataclass(slots=True)
class Cleaned:
    """What a run removed, or would remove."""

    checkpoints: int = 0
    files: int = 0
    garbage_objects: int = 0
    garbage_bytes: int = 0


class Cleaner:
    """Removes checkpoints and files whose time is over, and objects that nothing needs."""

    def __init__(self, database: Database, objects: ObjectStore, settings: StoreSettings) -> None:
        self._database = database
        self._objects = objects
        self._settings = settings

    def run_if_due(self, go_on: Callable[[], bool]) -> Cleaned | None:
        """Clean, unless some process began to within the last `clean_seconds`. Any number of processes may ask."""
        return self.run(go_on) if begin_chore(self._database, _CHORE, self._settings.clean_seconds) else None

    def run(self, go_on: Callable[[], bool] = lambda: True, *, dry_run: bool = False) -> Cleaned:
        """Clean until nothing is left to do, or `go_on` says no. With `dry_run` only count; then nothing changes.

        Raises ForeignObjectsError before any object is collected that no row names, if these are another database's.
        """
        foreign = self._foreign(claim=not dry_run)
        cleaned = Cleaned()
        self._drop_checkpoints(cleaned, go_on, dry_run)
        self._drop_files(cleaned, go_on, dry_run)
        if not dry_run:
            with self._database.begin() as session:
                Uploads(session).drop_expired()
                Webhooks(session).drop_old()
                Trials(session).drop_expired()
        if foreign is not None:
            raise foreign
        for found in find_garbage(self._database, self._objects, self._settings.garbage_grace_seconds, go_on):
            if not go_on():
                break
            cleaned.garbage_objects += 1
            cleaned.garbage_bytes += found.bytes
            if not dry_run:
                self._objects.delete(found.key)
        if not dry_run and cleaned != Cleaned():
            _log.info("cleaned up", **asdict(cleaned))
        return cleaned

    def _foreign(self, claim: bool) -> ForeignObjectsError | None:
        """Why nothing is to be collected, asked before anything is dropped that would show whose the objects are."""
        try:
            require_own_objects(self._database, self._objects, claim=claim)
        except ForeignObjectsError as error:
            return error
        return None

    def _drop_checkpoints(self, cleaned: Cleaned, go_on: Callable[[], bool], dry_run: bool) -> None:
        ttl = self._settings.checkpoint_ttl_seconds
        if ttl is None:
            return
        if dry_run:
            with self._database.read() as session:
                cleaned.checkpoints = len(Checkpoints(session).outdated(ttl))
            return
        while go_on():
            with self._database.begin() as session:
                dropped = Checkpoints(session).drop_outdated(ttl, _BATCH)
            if not dropped:
                return
            cleaned.checkpoints += len(dropped)
            delete_objects(self._objects, (checkpoint.object_prefix for checkpoint in dropped))

    def _drop_files(self, cleaned: Cleaned, go_on: Callable[[], bool], dry_run: bool) -> None:
        if dry_run:
            with self._database.read() as session:
                cleaned.files = len(Files(session).expired())
            return
        while go_on():
            with self._database.begin() as session:
                dropped = Files(session).drop_expired(_BATCH)
            if not dropped:
                return
            cleaned.files += len(dropped)
            delete_objects(self._objects, (), (file.object_key for file in dropped))


@contextmanager
def deleted_without_a_row(objects: ObjectStore, key: str) -> Iterator[None]:
    """A block whose transaction adds the row of an object that is stored already; if it fails, the object goes, too.

    Where the database breaks off the row may have been kept all the same: then the object stays for the collector.
    """
    try:
        yield
    except DatabaseUnavailableError:
        raise
    except BaseException:
        objects.delete(key)
        raise


def delete_objects(objects: ObjectStore, folders: Iterable[str], keys: Iterable[str] = ()) -> None:
    """Delete all objects under some folders, and those under some keys, whose rows are gone.

    A store that does not answer is logged and no error: nobody can see these objects, and a later run collects them.
    """
    try:
        for folder in folders:
            for found in list(objects.list(folder)):
                objects.delete(found.key)
        for key in keys:
            objects.delete(key)
    except (StoreError, OSError):
        _log.exception("objects whose rows are deleted stay behind for now")


def begin_chore(database: Database, name: str, seconds: float) -> bool:
    """Whether nobody began this chore within the last `seconds`; if so, the caller has begun it now."""
    due = update(ChoreRecord).where(ChoreRecord.name == name, ChoreRecord.begun_at <= database_now() - seconds)
    try:
        with database.begin() as session:
            if session.get(ChoreRecord, name) is None:
                session.add(ChoreRecord(name=name, begun_at=database_now()))
                session.flush()
                return True
            begun = due.values(begun_at=database_now()).returning(ChoreRecord.name)
            return session.execute(begun.execution_options(synchronize_session=False)).one_or_none() is not None
    except exc.IntegrityError:  # another process began it for the first time at the same moment
        return False
