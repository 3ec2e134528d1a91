"""Sessions on SQLite and Postgres with one code path, and the schema's migrations."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, select
from sqlalchemy.orm import Session

from sgg_store.errors import DatabaseUnavailableError, InvalidTextError, SchemaOutdatedError, StorageFullError
from sgg_store.records import database_now

_RESTORE = "Check SGG_DATABASE_URL and that the database runs, then try again."
_FULL = "Free some space, then try again; nothing was changed."


class Database:
    """An engine and its two kinds of session. Safe to share between threads, not between processes."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url = url
        self.engine = _make_engine(url, pool_size)
        self._writers = self.engine.execution_options(sgg_begin="BEGIN IMMEDIATE")

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A session that may write. Commits at the exit, rolls back on any exception.

        On SQLite it takes the write lock at once (BEGIN IMMEDIATE), so that what it reads cannot change under it.

        Raises:
            DatabaseUnavailableError: no connection, or the write lock was not to be had within 30 s.
            StorageFullError: no space was left; nothing was changed.
            InvalidTextError: a value that the database cannot store.

        """
        with _named_errors(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading. Whatever was changed in it is rolled back. Raises DatabaseUnavailableError."""
        with _named_errors(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    def now(self) -> float:
        """The database's clock, Unix seconds."""
        with self.read() as session:
            return session.execute(select(database_now())).scalar_one()

    def upgrade_schema(self) -> None:
        """Bring the tables to the newest version; does nothing when they are.

        Several processes may call it at once, but only one thread of each (Alembic keeps its state in globals).
        """
        with self.connect_for_migration() as connection:
            command.upgrade(_alembic_config(connection), "head")

    @contextmanager
    def connect_for_migration(self) -> Iterator[Connection]:
        """A connection in a writing transaction, committed at the exit."""
        with _named_errors(), self._writers.begin() as connection:
            yield connection

    def schema_is_current(self) -> bool:
        """Whether the tables are those that this version of the code needs."""
        head = ScriptDirectory.from_config(_alembic_config(None)).get_current_head()
        with _named_errors(), self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head

    def require_current_schema(self) -> None:
        """Raise SchemaOutdatedError unless the tables are those that this version needs."""
        if not self.schema_is_current():
            raise SchemaOutdatedError(
                "The database's tables belong to another version of sgg.",
                "Run `alembic upgrade head` (or start `sgg serve`, which does it), with the newest version.",
            )

    def dispose(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def upgrade_schema(url: str) -> None:
    """Create or upgrade the tables of the database at `url`."""
    database = Database(url)
    try:
        database.upgrade_schema()
    finally:
        database.dispose()


def _make_engine(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "json_serializer": functools.partial(json.dumps, allow_nan=False),
    }
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": 30.0, "check_same_thread": False}, **options)
        event.listen(engine, "connect", _prepare_sqlite_connection)
        event.listen(engine, "begin", _begin_on_sqlite)
        return engine
    connect_args = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 15_000}
    return create_engine(parsed, pool_pre_ping=True, connect_args=connect_args, **options)


def _prepare_sqlite_connection(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver would open deferred transactions of its own
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_on_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sgg_begin", "BEGIN"))


def _alembic_config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn the drivers' errors that a caller can act on into the store's own; others are defects and pass."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError) as error:
        cause: Any = error.orig
        if getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "sqlstate", "") == "53100":
            raise StorageFullError("The database has no space left.", _FULL) from error
        raise DatabaseUnavailableError(f"The database does not answer: {cause}", _RESTORE) from error
    except exc.TimeoutError as error:
        raise DatabaseUnavailableError("All connections to the database are in use.", _RESTORE) from error
    except (exc.DataError, UnicodeEncodeError, OverflowError) as error:
        raise InvalidTextError(
            "A value holds something that the database cannot store.",
            "Remove NUL characters and broken Unicode, and keep numbers within 64 bits.",
        ) from error
