"""What the service rests on: data directory and lock, database and tables, broker, object store."""

from __future__ import annotations

import fcntl
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.checkup.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from sgg_store.settings import StoreSettings

PRIVATE = ("admin-key", "key-secret")


def check_data_dir(data_dir: Path) -> Iterator[Finding]:
    """Whether the directory is there, can be written to, and keeps its secrets to its owner."""
    if not data_dir.is_dir():
        remedy = "`sgg serve` makes it at its first start; else correct SGG_DATA_DIR."
        yield Finding("data directory", "note", f"{data_dir} does not exist yet.", remedy)
        return
    open_files = [path for path in (data_dir / name for name in PRIVATE) if path.exists() and _mode(path) & 0o077]
    for path in open_files:
        message = f"{path} can be read by others (mode {_mode(path):04o})."
        yield Finding("data directory", "problem", message, f"Run `chmod 600 {path}`, and revoke the key if need be.")
    if _mode(data_dir) & 0o022:
        message = f"{data_dir} can be changed by others (mode {_mode(data_dir):04o})."
        yield Finding("data directory", "problem", message, f"Run `chmod 700 {data_dir}`.")
    if not _can_write(data_dir):
        yield Finding("data directory", "problem", f"{data_dir} cannot be written to.", "Run as its owner.")
    elif not open_files:
        yield Finding("data directory", "ok", f"{data_dir} (mode {_mode(data_dir):04o}).")


def check_lock(data_dir: Path) -> Iterator[Finding]:
    """Whether a server runs on the data directory."""
    pid = server_on(data_dir)
    running = f"A server runs on it (pid {pid})." if pid else "No server runs on it."
    yield Finding("lock", "ok", running)


def server_on(data_dir: Path) -> str | None:
    """The process id of the server that holds the data directory's lock; None if nobody does."""
    try:
        with (data_dir / "serve.lock").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return (data_dir / "serve.lock").read_text().strip() or "unknown"
    except OSError:
        return None
    return None


def check_database(settings: StoreSettings) -> Iterator[Finding]:
    """Whether the database answers, and has the tables of this version."""
    from sgg_store.database import Database

    if settings.database_is_embedded and not (settings.data_dir / "sgg.sqlite3").exists():
        yield Finding("database", "note", "There is none yet.", "`sgg serve` makes it at its first start.")
        return
    database = Database(settings.database_url)
    try:
        status = database.schema_status()
        status.require_current()
    finally:
        database.dispose()
    yield Finding("database", "ok", f"{database.engine.dialect.name} answers; its tables are those of {status.needed}.")


def check_broker(settings: StoreSettings) -> Iterator[Finding]:
    """Whether the broker answers, and brings back a doorbell that is rung on a queue of our own."""
    if settings.broker_is_embedded:
        yield Finding("broker", "ok", "Doorbells ring within the server's process; no broker is needed.")
        return
    from sgg_store.queue import make_celery, ping, round_trip

    celery = make_celery(settings)
    ping(celery)
    yield Finding("broker", "ok", f"It answers, and a doorbell came back after {round_trip(celery) * 1000:.0f} ms.")


def check_objects(settings: StoreSettings) -> Iterator[Finding]:
    """Whether the object store keeps its promises; leaves nothing there."""
    from sgg_store.object_probe import open_probed_object_store

    if settings.object_store_url == str(settings.data_dir / "objects") and not settings.data_dir.is_dir():
        yield Finding("object store", "note", "There is none yet.", "`sgg serve` makes it at its first start.")
        return
    open_probed_object_store(settings.object_store_url)
    yield Finding("object store", "ok", "It gives back what was put, and never replaces what must stay.")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _can_write(directory: Path) -> bool:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False
