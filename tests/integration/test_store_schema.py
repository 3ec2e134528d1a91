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
from sgg_store.records import ProjectRecord, Record
from sgg_store.schema import alembic_config


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database whose tables this test may change."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'own.sqlite3'}" if in_file else request.getfixturevalue("empty_postgres_url")
    upgrade_schema(url)
    opened = Database(url)
    yield opened
    opened.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    in_file = request.param == "sqlite"
    opened = Database(
        f"sqlite:///{tmp_path / 'new' / 'e.sqlite3'}" if in_file else request.getfixturevalue("empty_postgres_url")
    )
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


def test_a_database_without_tables_is_told_and_upgraded(empty_database: Database) -> None:
    status = empty_database.schema_status()
    assert (status.state, status.revision, status.pending[-1]) == ("empty", None, status.needed)
    with pytest.raises(SchemaOutdatedError, match=r"no tables yet\. Run `sgg db upgrade`"):
        empty_database.require_current_schema()
    for _ in range(2):  # the second time there is nothing to do
        empty_database.upgrade_schema()
        status = empty_database.schema_status()
        assert (status.state, status.revision, status.pending) == ("current", status.needed, ())
        empty_database.require_current_schema()
    assert set(inspect(empty_database.engine).get_table_names()) == {*Record.metadata.tables, "alembic_version"}


def test_older_tables_are_told_and_keep_their_rows_when_upgraded(empty_database: Database) -> None:
    with empty_database.connect_for_migration() as connection:
        command.upgrade(alembic_config(connection), "0001")
        connection.exec_driver_sql("INSERT INTO projects (id, name, created_at) VALUES ('proj-1', 'old', 1.0)")
    status = empty_database.schema_status()
    assert (status.state, status.revision, status.pending[-1]) == ("older", "0001", status.needed)
    with pytest.raises(SchemaOutdatedError, match="Make a backup, then run `sgg db upgrade`"):
        empty_database.require_current_schema()
    empty_database.upgrade_schema()
    with empty_database.read() as session:
        assert session.get_one(ProjectRecord, "proj-1").name == "old"


@pytest.mark.parametrize("trouble", ["newer", "unversioned"])
def test_tables_of_another_origin_are_refused_and_left_alone(own_database: Database, trouble: str) -> None:
    change = "UPDATE alembic_version SET version_num = '9999'" if trouble == "newer" else "DROP TABLE alembic_version"
    with own_database.engine.begin() as connection:
        connection.exec_driver_sql(change)
    for action in (own_database.require_current_schema, own_database.upgrade_schema):
        with pytest.raises(SchemaOutdatedError, match="newest version of sgg"):
            action()
    assert own_database.schema_status().state == "unknown"


@pytest.mark.postgres
def test_several_replicas_may_upgrade_at_once(empty_postgres_url: str) -> None:
    program = "import sys; from sgg_store.database import upgrade_schema; upgrade_schema(sys.argv[1])"
    replicas = [subprocess.Popen([sys.executable, "-c", program, empty_postgres_url]) for _ in range(3)]
    assert [replica.wait(timeout=60) for replica in replicas] == [0, 0, 0]
    database = Database(empty_postgres_url)
    database.require_current_schema()
    database.dispose()


def test_downgrade_takes_everything_away_again(own_database: Database) -> None:
    with own_database.connect_for_migration() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(own_database.engine).get_table_names()) == {"alembic_version"}
