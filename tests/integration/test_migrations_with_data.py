"""Migrations keep what is in the tables, from the first version on, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, insert, select

from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError
from sgg_store.events import Events
from sgg_store.jobs import Jobs
from sgg_store.leases import Leases

OLD_ROWS: dict[str, dict[str, Any]] = {
    "projects": {"id": "proj-a", "name": "a", "created_at": 1.0},
    "files": {
        **{"id": "file-1", "project_id": "proj-a", "filename": "t.jsonl", "purpose": "fine-tune", "bytes": 9},
        **{"sha256": "ab", "object_key": "files/1", "status": "processed", "facts": {"a": 1}, "created_at": 1.5},
    },
    "jobs": {
        **{"id": "ftjob-1", "project_id": "proj-a", "status": "running", "priority": 0, "base_model": "tiny"},
        **{"spec": {"base_model": "tiny", "nested": [1, {"two": None}]}, "seed": 2**40, "training_file_id": "file-1"},
        **{"source_file_ids": ["file-1"], "request_hash": "h", "created_at": 2.5, "step": 3, "result_file_ids": []},
        **{"current_attempt": 1, "infra_failures": 0, "cancel_requested": False, "rings": 0, "next_ring_at": 0.0},
        "last_event_seq": 1,
    },
    "attempts": {
        **{"job_id": "ftjob-1", "number": 1, "token": "t", "owner": "w", "state": "running"},
        **{"lease_expires_at": 1.0, "start_step": 0, "last_step": 3, "started_at": 2.0},
    },
    "job_events": {
        **{"job_id": "ftjob-1", "seq": 1, "project_id": "proj-a", "created_at": 2.0, "level": "info"},
        **{"type": "message", "message": "The job is queued.", "data": {"a": [1]}},
    },
    "job_metadata": {"job_id": "ftjob-1", "key": "team", "value": "b"},
    "metrics": {
        **{"job_id": "ftjob-1", "step": 3, "type": "step", "attempt": 1, "figures": {"x": 1.5}, "created_at": 2.0}
    },
    "checkpoints": {
        **{"id": "ftckpt_1", "project_id": "proj-a", "job_id": "ftjob-1", "attempt": 1, "step": 3, "metrics": {}},
        **{"object_prefix": "p", "manifest": {"f": {"bytes": 1}}, "damaged": False, "created_at": 2.0},
    },
}


DROPPED = {"jobs": {"infra_failures"}}
"""Columns of the first version that the newest one has not."""


def migrate(database: Database, direction: Callable[[Config, str], None]) -> None:
    """Bring the tables to the first version."""
    with database.connect_for_migration() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
        config.attributes["connection"] = connection
        direction(config, "0001")


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of the old tables, with those columns alone that the first version and the newest one have."""
    tables = MetaData()
    tables.reflect(database.engine)
    with database.engine.connect() as connection:
        kept = {name: [key for key in old if key not in DROPPED.get(name, ())] for name, old in OLD_ROWS.items()}
        return {
            name: [
                dict(row)
                for row in connection.execute(select(*(tables.tables[name].c[key] for key in keys))).mappings()
            ]
            for name, keys in kept.items()
        }


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def old_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database as the first version made it, with a row in every table that belongs to a job."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'own.sqlite3'}" if in_file else request.getfixturevalue("empty_postgres_url")
    opened = Database(url)
    migrate(opened, command.upgrade)
    tables = MetaData()
    tables.reflect(opened.engine)
    with opened.engine.begin() as connection:
        for name, values in OLD_ROWS.items():
            connection.execute(insert(tables.tables[name]).values(**values))
    yield opened
    opened.dispose()


def test_an_upgrade_keeps_every_row_and_the_job_goes_on(old_database: Database) -> None:
    before = rows(old_database)
    old_database.upgrade_schema()
    assert rows(old_database) == before
    with old_database.begin() as session:
        assert Leases(session).expire_overdue() == ["ftjob-1"]
    with old_database.begin() as session:
        claim = Leases(session).claim("ftjob-1", "w")
        assert claim is not None and claim.checkpoint is not None
        assert (claim.checkpoint.id, claim.checkpoint.step, claim.lease.attempt) == ("ftckpt_1", 3, 2)
        assert (claim.spec, claim.training_file.id) == (OLD_ROWS["jobs"]["spec"], "file-1")
        assert [event.seq for event in Events(session).since("proj-a", "ftjob-1", 0)] == [1, 2, 3]


def test_foreign_keys_hold_again_after_an_upgrade(old_database: Database) -> None:
    old_database.upgrade_schema()
    with old_database.begin() as session:
        session.delete(Jobs(session).get("proj-a", "ftjob-1"))
    assert {
        name: found for name, found in rows(old_database).items() if found and name not in ("projects", "files")
    } == {}
    with pytest.raises(RecordNotFoundError), old_database.begin() as session:
        Jobs(session).get("proj-a", "ftjob-1")


def test_a_downgrade_keeps_every_row(old_database: Database) -> None:
    before = rows(old_database)
    old_database.upgrade_schema()
    migrate(old_database, command.downgrade)
    assert rows(old_database) == before
