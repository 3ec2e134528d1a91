"""`sgg db` and the start of a server on tables of each age."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from click.testing import Result
from typer.testing import CliRunner

from cli.data_dir_lock import locked
from cli.main import app
from sgg_store.database import Database
from sgg_store.schema import alembic_config

Sgg = Callable[..., Result]


@pytest.fixture
def sgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sgg:
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def make_older(url: str) -> None:
    database = Database(url)
    with database.connect_for_migration() as connection:
        command.upgrade(alembic_config(connection), "0001")
    database.dispose()


def test_status_and_upgrade_lead_from_nothing_to_the_newest_tables(sgg: Sgg) -> None:
    before = sgg("db", "status")
    assert (before.exit_code, before.stdout) == (1, "")
    assert "There is no database in" in before.stderr
    told = json.loads(sgg("db", "status", "--json").stdout)
    assert (told["state"], told["revision"], told["pending"][-1]) == ("empty", None, told["needed"])
    upgraded = json.loads(sgg("db", "upgrade", "--json").stdout)
    assert upgraded["state"] == "current" and upgraded["applied"][-1] == upgraded["needed"]
    after = sgg("db", "status")
    assert after.exit_code == 0
    assert "are those that this version of sgg needs" in after.stdout


@pytest.mark.parametrize("asked", [("db", "status"), ("clean",), ("db", "backup", "copy")])
def test_a_wrong_directory_is_named_and_stays_as_it_is(sgg: Sgg, tmp_path: Path, asked: tuple[str, ...]) -> None:
    refused = sgg(*asked, "--data-dir", str(tmp_path / "typo"))
    assert refused.exit_code == 1 and str(tmp_path / "typo") in refused.stderr.replace("\n", "")
    assert not (tmp_path / "typo").exists()


def test_a_database_without_tables_is_no_backup(sgg: Sgg, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sgg.sqlite3").touch()
    refused = sgg("db", "backup", str(tmp_path / "copy"))
    assert refused.exit_code == 1 and "no server has run on it" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "copy").exists()


def test_a_server_makes_no_tables_beside_the_objects_of_a_lost_database(sgg: Sgg, tmp_path: Path) -> None:
    objects = tmp_path / "data" / "objects" / "files"
    objects.mkdir(parents=True)
    (objects / "file-1").write_bytes(b"x")
    refused = sgg("serve", "--port", "0")
    assert refused.exit_code == 1 and "it was moved or lost" in refused.stderr.replace("\n", " ")
    assert sgg("db", "status").exit_code == 1
    assert (objects / "file-1").exists()


def test_objects_of_another_database_are_told_of_and_can_be_adopted(sgg: Sgg, tmp_path: Path) -> None:
    assert sgg("db", "upgrade").exit_code == 0
    owner = tmp_path / "data" / "objects" / "owner"
    owner.parent.mkdir()
    owner.write_text("inst-of-later")
    for asked in ((), ("--dry-run",), ("--dry-run", "--adopt")):
        refused = sgg("clean", *asked)
        assert refused.exit_code == 1 and "sgg clean --adopt" in refused.stderr.replace("\n", " ")
    assert owner.read_text() == "inst-of-later"
    assert sgg("clean", "--adopt").exit_code == 0
    assert sgg("clean").exit_code == 0 and owner.read_text() != "inst-of-later"


@pytest.mark.postgres
def test_the_database_of_the_environment_is_meant_and_its_password_not_told(
    sgg: Sgg, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", empty_postgres_url.replace("postgres@", "postgres:hush@"))
    assert sgg("db", "upgrade").exit_code == 0
    status = sgg("db", "status", "--json")
    assert status.exit_code == 0 and "hush" not in status.stdout


def test_the_tables_of_a_running_server_are_left_alone(sgg: Sgg, tmp_path: Path) -> None:
    with locked(tmp_path / "data"):
        refused = sgg("db", "upgrade")
    assert refused.exit_code == 1 and "uses the data directory" in refused.stderr


def test_a_server_does_not_start_on_older_tables_and_names_the_command(sgg: Sgg, tmp_path: Path) -> None:
    file = tmp_path / "data" / "sgg.sqlite3"
    make_older(f"sqlite:///{file}")
    refused = sgg("serve", "--port", "0")
    assert refused.exit_code == 1
    assert "Make a backup, then run `sgg db upgrade`" in refused.stderr
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


@pytest.mark.postgres
def test_a_server_makes_no_tables_on_postgres(
    sgg: Sgg, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", empty_postgres_url)
    refused = sgg("serve", "--port", "0")
    assert refused.exit_code == 1
    assert "no tables yet. Run `sgg db upgrade`" in refused.stderr.replace("\n", " ")


def test_a_worker_does_not_start_on_older_tables(sgg: Sgg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_older(f"sqlite:///{tmp_path / 'data' / 'sgg.sqlite3'}")
    monkeypatch.setenv("SGG_BROKER_URL", "redis://127.0.0.1:1/0")
    refused = sgg("worker")
    assert refused.exit_code == 1 and "sgg db upgrade" in refused.stderr
