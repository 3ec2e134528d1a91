"""The packaged migrations make exactly the tables that the records describe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from sgg_store.database import Database, upgrade_schema
from sgg_store.errors import SchemaOutdatedError
from sgg_store.records import Record


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database whose tables this test may change."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'own.sqlite3'}" if in_file else request.getfixturevalue("empty_postgres_url")
    upgrade_schema(url)
    opened = Database(url)
    yield opened
    opened.dispose()


def test_migrations_leave_no_difference_to_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "render_as_batch": True}
        )
        assert compare_metadata(context, Record.metadata) == []


def test_a_difference_would_be_found(own_database: Database) -> None:
    with own_database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE files ADD COLUMN unheard_of INTEGER")
        context = MigrationContext.configure(connection)
        (difference,) = compare_metadata(context, Record.metadata)
    assert difference[0] == "remove_column"


def test_alembic_check_works_from_the_command_line_configuration(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", sqlite_url)
    command.check(Config(Path(__file__).parents[2] / "alembic.ini"))


def test_a_database_without_tables_is_told_and_upgraded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'sgg.sqlite3'}"
    database = Database(url)
    assert not database.schema_is_current()
    with pytest.raises(SchemaOutdatedError, match="alembic upgrade head"):
        database.require_current_schema()
    upgrade_schema(url)
    database.require_current_schema()
    upgrade_schema(url)  # again: nothing to do
    assert set(inspect(database.engine).get_table_names()) == {*Record.metadata.tables, "alembic_version"}
    database.dispose()


@pytest.mark.postgres
def test_several_replicas_may_upgrade_at_once(empty_postgres_url: str) -> None:
    program = "import sys; from sgg_store.database import upgrade_schema; upgrade_schema(sys.argv[1])"
    replicas = [subprocess.Popen([sys.executable, "-c", program, empty_postgres_url]) for _ in range(3)]
    assert [replica.wait(timeout=60) for replica in replicas] == [0, 0, 0]
    database = Database(empty_postgres_url)
    assert database.schema_is_current()
    database.dispose()


def test_downgrade_takes_everything_away_again(own_database: Database) -> None:
    with own_database.connect_for_migration() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(own_database.engine).get_table_names()) == {"alembic_version"}
