"""Sessions: what is committed, what is not, and which errors get a name."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import exc, func, select, text

from sgg_store.database import Database
from sgg_store.errors import DatabaseUnavailableError, InvalidTextError, StorageFullError
from sgg_store.keys import ensure_project
from sgg_store.records import ProjectRecord, database_now
from sgg_store.testing import add_file, add_job


def count(database: Database) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(ProjectRecord)).scalar_one()


def test_begin_commits_at_its_exit_and_rolls_back_on_an_exception(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session, "proj-1")
    with pytest.raises(KeyError), database.begin() as session:
        ensure_project(session, "proj-2")
        session.flush()
        raise KeyError("proj-2")
    assert count(database) == 1


def test_a_reading_session_changes_nothing(database: Database) -> None:
    with suppress(exc.InternalError), database.read() as session:  # Postgres refuses, SQLite rolls back
        ensure_project(session, "proj-1")
        session.flush()
    assert count(database) == 0


@pytest.mark.postgres
def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    for use in (database.read, database.begin):
        with use() as session:
            own = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        other = Database(postgres_url)
        with other.begin() as session:
            assert session.execute(text("SELECT pg_terminate_backend(:own, 10000)"), {"own": own}).scalar_one()
        other.dispose()
        with use() as session:
            assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() != own
    database.dispose()


@pytest.mark.postgres
def test_a_server_that_takes_no_writes_is_away_and_its_connections_are_left(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    with database.begin() as session:
        session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))  # as after a failover
    with pytest.raises(DatabaseUnavailableError, match="accepts no writes"), database.begin() as session:
        ensure_project(session, "proj-1")
    with database.begin() as session:
        ensure_project(session, "proj-1")
    assert count(database) == 1
    database.dispose()


def test_records_can_be_read_after_their_session_ended(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session, user_metadata={"a": "b"})
    assert (job.status, dict(job.user_metadata)) == ("queued", {"a": "b"})


def test_the_clock_goes_on_within_a_transaction(database: Database) -> None:
    with database.begin() as session:
        first = session.execute(select(database_now())).scalar_one()
        threading.Event().wait(0.05)
        second = session.execute(select(database_now())).scalar_one()
    assert 0.04 < second - first < 5.0
    assert abs(database.now() - second) < 5.0


def test_writers_in_many_threads_lose_nothing(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session, "proj-1").name = "0"

    def add_ten() -> None:
        for _ in range(10):
            with database.begin() as session:
                query = select(ProjectRecord).where(ProjectRecord.id == "proj-1").with_for_update()
                project = session.scalars(query).one()
                project.name = str(int(project.name) + 1)

    threads = [threading.Thread(target=add_ten) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(ProjectRecord, "proj-1").name == "80"


def test_readers_are_not_held_up_by_a_writer(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session, "proj-1")
        session.flush()
        assert count(database) == 0


def test_sqlite_is_durable_and_checks_references(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.read() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    database.dispose()


def test_a_full_database_is_named_and_unchanged(sqlite_url: str) -> None:
    database = Database(sqlite_url, pool_size=1)
    with database.read() as session:
        session.execute(text("PRAGMA max_page_count = 1"))  # SQLite uses the current size if that is larger
    with pytest.raises(StorageFullError, match="no space left"), database.begin() as session:
        add_file(session, facts={"labels": ["x" * 1_000_000]})
    assert count(database) == 0
    database.dispose()


def test_a_database_out_of_reach_is_named() -> None:
    database = Database("postgresql+psycopg://postgres@127.0.0.1:1/test")
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        database.now()
    database.dispose()


def test_a_sqlite_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.sqlite3").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'file.sqlite3'}")
    with pytest.raises(DatabaseUnavailableError):
        database.now()
    database.dispose()


def test_numbers_that_are_too_large_are_named(database: Database) -> None:
    with pytest.raises(InvalidTextError), database.begin() as session:
        add_file(session, bytes=2**70)


def test_the_file_is_an_ordinary_sqlite_database(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.begin() as session:
        ensure_project(session, "proj-1")
    database.dispose()
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    assert connection.execute("SELECT id FROM projects").fetchall() == [("proj-1",)]
    connection.close()
