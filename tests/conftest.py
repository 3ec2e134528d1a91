"""Fixtures that tests of several packages share: a fresh database of each kind, and a local object store."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, exc, make_url, text

from sgg_store.database import Database, upgrade_schema
from sgg_store.local_objects import LocalObjectStore
from sgg_store.records import Record

POSTGRES_URL = os.environ.get("SGG_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables, to be copied: migrating once is enough."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite3"
    upgrade_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    """Address of a fresh SQLite database with all tables."""
    path = tmp_path / "sgg.sqlite3"
    shutil.copyfile(migrated_sqlite_file, path)
    return f"sqlite:///{path}"


@contextmanager
def postgres_schema() -> Iterator[str]:
    """Address of a new Postgres schema without tables, dropped afterwards."""
    admin = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    schema = f"sgg_test_{uuid.uuid4().hex}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except exc.OperationalError as error:
        admin.dispose()
        message = f"Postgres does not answer at SGG_TEST_POSTGRES_URL={POSTGRES_URL}: {error.orig}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    url = make_url(POSTGRES_URL).update_query_dict({"options": f"-csearch_path={schema} -clock_timeout=20s"})
    yield url.render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture
def empty_postgres_url() -> Iterator[str]:
    """Address of a fresh Postgres schema without tables."""
    with postgres_schema() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres_url() -> Iterator[str]:
    """Address of a Postgres schema with all tables, for the whole session."""
    with postgres_schema() as url:
        upgrade_schema(url)
        yield url


@pytest.fixture
def postgres_url(migrated_postgres_url: str) -> str:
    """Address of a Postgres schema whose tables are all there and empty."""
    engine = create_engine(migrated_postgres_url)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(Record.metadata.tables)} CASCADE"))
    engine.dispose()
    return migrated_postgres_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database with all tables: each test runs on SQLite and on Postgres."""
    opened = Database(request.getfixturevalue(f"{request.param}_url"))
    yield opened
    opened.dispose()


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    """A fresh local object store."""
    return LocalObjectStore(tmp_path / "objects")
