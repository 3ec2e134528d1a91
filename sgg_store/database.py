"""Sessions on SQLite and Postgres with one code path, and the schema's migrations."""

from __future__ import annotations

import functools
import json
import math
import select as sockets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, create_engine, event, exc, make_url, select
from sqlalchemy.orm import Session

from sgg_store.errors import DatabaseUnavailableError, InvalidTextError, StorageFullError
from sgg_store.records import database_now
from sgg_store.schema import SchemaState, SchemaStatus, alembic_config, read_schema_status

_RESTORE = "Check SGG_DATABASE_URL and that the database runs, then try again."
_TOO_LONG = ("25P03", "25P04")  # Postgres' codes for its idle_in_transaction_session_timeout and transaction_timeout
_READ_ONLY = "25006"  # Postgres' code for a write that it does not take: on a standby, or while its disk is nearly full
_TRUSTED_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""How long a transaction may stand still on Postgres, whose process is frozen or gone with its machine. Then its locks
are free again: until then the reaper passes over its attempt, and what its project may have is added to by nobody."""
_FULL = "Free some space, then try again; nothing was changed."


class Database:
    """An engine and its two kinds of session. Safe to share between threads, not between processes."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url = url
        self.engine = _make_engine(url, pool_size)
        event.listen(self.engine, "handle_error", _leave_if_read_only)
        self._writers = self.engine.execution_options(sgg_begin="BEGIN IMMEDIATE")
        self._readers = self.engine if self.is_sqlite else _make_reading_engine(url, pool_size)

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
        """A session for reading. Nothing can be changed in it: SQLite rolls back, Postgres refuses.

        On Postgres each statement stands alone, since opening and ending a transaction would cost a round trip each.
        Raises DatabaseUnavailableError.
        """
        with _named_errors(), Session(self._readers, expire_on_commit=False) as session:
            yield session

    def now(self) -> float:
        """The database's clock, Unix seconds."""
        with self.read() as session:
            return session.execute(select(database_now())).scalar_one()

    def upgrade_schema(self) -> None:
        """Bring the tables to the newest version; does nothing when they are.

        Several processes may call it at once, but only one thread of each (Alembic keeps its state in globals).
        Raises SchemaOutdatedError for tables that no migration leads away from.
        """
        with self.connect_for_migration() as connection:
            status = read_schema_status(connection)
            if status.state is SchemaState.UNKNOWN:
                status.require_current()
            command.upgrade(alembic_config(connection), "head")

    @contextmanager
    def connect_for_migration(self) -> Iterator[Connection]:
        """A connection in a writing transaction, committed at the exit.

        SQLite changes a table by making it anew, and dropping the old one would delete what refers to its rows: its
        foreign keys are off meanwhile and checked at the end. Raises DatabaseUnavailableError, StorageFullError.
        """
        with _named_errors(), self._writers.connect() as connection:
            if not self.is_sqlite:
                with connection.begin():
                    yield connection
                return
            driver: Any = connection.connection.driver_connection  # a transaction could not change the pragma
            driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    yield connection
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                    if broken:
                        raise RuntimeError(f"the migration would leave rows that refer to nothing: {broken[:5]}")
            finally:
                driver.execute("PRAGMA foreign_keys = ON")

    def schema_status(self) -> SchemaStatus:
        """How the tables compare with those that this version needs."""
        with _named_errors(), self.engine.connect() as connection:
            return read_schema_status(connection)

    def require_current_schema(self) -> None:
        """Raise SchemaOutdatedError unless the tables are those that this version needs."""
        self.schema_status().require_current()

    def dispose(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()
        self._readers.dispose()


def upgrade_schema(url: str) -> None:
    """Create or upgrade the tables of the database at `url`."""
    database = Database(url)
    try:
        database.upgrade_schema()
    finally:
        database.dispose()


def _make_engine(url: str, pool_size: int, **more_options: Any) -> Engine:
    parsed = make_url(url)
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "json_serializer": functools.partial(json.dumps, allow_nan=False),
        **more_options,
    }
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": 30.0, "check_same_thread": False}, **options)
        event.listen(engine, "connect", _prepare_sqlite_connection)
        event.listen(engine, "begin", _begin_on_sqlite)
        return engine
    connect_args = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 15_000}
    engine = create_engine(parsed, connect_args=connect_args, **options)
    event.listen(engine, "connect", _let_go_of_what_stands_still)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", functools.partial(_ping_if_doubtful, engine.dialect))
    return engine


def _make_reading_engine(url: str, pool_size: int) -> Engine:
    engine = _make_engine(url, pool_size, isolation_level="AUTOCOMMIT")
    event.listen(engine, "connect", _read_only)
    return engine


def _let_go_of_what_stands_still(connection: Any, record: object) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000:.0f}")
    connection.commit()


def _read_only(connection: Any, record: object) -> None:
    connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")


def _leave_if_read_only(context: ExceptionContext) -> None:
    """Drop the connections to a server that takes no writes (any more): new ones may find the one that does."""
    if getattr(context.original_exception, "sqlstate", "") == _READ_ONLY:
        context.is_disconnect = True


def _note_use(connection: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_doubtful(dialect: Dialect, connection: Any, record: Any, proxy: object) -> None:
    """Replace a connection that the server has ended meanwhile; one that was used just now and is silent is trusted.

    A server that restarts closes each connection, which shows without a round trip, however quick it was.
    """
    try:
        used_just_now = time.monotonic() - record.info.get("used_at", math.inf) < _TRUSTED_SECONDS
        if not used_just_now or _unread(connection):
            dialect.do_ping(connection)
    except psycopg.Error as error:
        raise exc.InvalidatePoolError from error


def _unread(connection: Any) -> bool:
    """Whether an unused connection has something to read: its end, or a notice."""
    poll = sockets.poll()
    poll.register(connection.fileno(), sockets.POLLIN)
    return bool(poll.poll(0))


def _prepare_sqlite_connection(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver would open deferred transactions of its own
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_on_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sgg_begin", "BEGIN"))


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
    except exc.InternalError as error:
        state = getattr(error.orig, "sqlstate", "")
        if state in _TOO_LONG:
            raise DatabaseUnavailableError(
                "The database ended a transaction that was idle for too long.", _RESTORE
            ) from error
        if state == _READ_ONLY and error.connection_invalidated:  # else a write where only reading is meant
            raise DatabaseUnavailableError("The database accepts no writes.", _RESTORE) from error
        raise
    except exc.TimeoutError as error:
        raise DatabaseUnavailableError("All connections to the database are in use.", _RESTORE) from error
    except (exc.DataError, UnicodeEncodeError, OverflowError) as error:
        raise InvalidTextError(
            "A value holds something that the database cannot store.",
            "Remove NUL characters and broken Unicode, and keep numbers within 64 bits.",
        ) from error
