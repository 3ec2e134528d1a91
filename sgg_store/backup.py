"""A copy of the embedded service's data directory, made while the server runs, from which another one can go on."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sgg_store.errors import BackupError
from sgg_store.objects import open_object_store
from sgg_store.settings import StoreSettings

_DATABASE = "sgg.sqlite3"
_LEFT_OUT = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", "serve.lock")
_CHECK_DISKS = "Check the disks, and try again."
ANOTHER_PLACE = "Choose a directory that has space and is yours."
"""What to do where a backup cannot be written."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied; `objects` is None where they lie outside the data directory and are for others to copy."""

    directory: Path
    database_bytes: int
    objects: int | None


def back_up(settings: StoreSettings, target: Path) -> Backup:
    """Copy database, keys, catalogue and objects to the new directory `target`, which appears complete or not at all.

    The database is copied as of one moment, and before the objects: whatever its rows name was stored before them.
    An object that is deleted meanwhile is missing from the copy. Raises BackupError, OSError.
    """
    if not settings.database_is_embedded:
        raise BackupError(
            "The database is not the SQLite file of the data directory.",
            "Back it up with its own tools, such as pg_dump, in the order of docs/backup.md.",
        )
    source = settings.data_dir / _DATABASE
    if not source.exists():
        raise BackupError(f"There is no {source}.", "Name the server's data directory.")
    if target.exists():
        raise BackupError(f"{target} exists already.", "Name a directory that does not exist yet.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    part.mkdir(mode=0o700)
    try:
        _copy_database(source, part / _DATABASE)
        for path in settings.data_dir.iterdir():
            if path.is_file() and path.name not in _LEFT_OUT:
                shutil.copy2(path, part / path.name)
        objects = _copy_objects(settings, part)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Backup(target, (target / _DATABASE).stat().st_size, objects)


def _copy_database(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(source, timeout=30)) as live, closing(sqlite3.connect(target)) as copy:
            if live.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                raise BackupError(f"{source} is empty: no server has run on it.", "Name the server's data directory.")
            live.backup(copy)
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:  # an OperationalError where no space is left
        remedy = ANOTHER_PLACE if isinstance(error, sqlite3.OperationalError) else _CHECK_DISKS
        raise BackupError(f"Cannot copy the database: {error}.", remedy) from error
    if verdict != "ok":
        raise BackupError(f"The copy of the database is damaged: {verdict}.", _CHECK_DISKS)


def _copy_objects(settings: StoreSettings, target: Path) -> int | None:
    inside = settings.data_dir / "objects"
    if settings.object_store_url != str(inside):
        return None
    store, copied = open_object_store(settings.object_store_url), 0
    for found in store.list(""):
        path = target / "objects" / found.key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(inside / found.key, path)
        except FileNotFoundError:  # deleted meanwhile
            continue
        copied += 1
    return copied
