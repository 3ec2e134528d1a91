"""Which version of the tables a database has, and what to do where it is not the one that this code needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from sgg_store.errors import SchemaOutdatedError
from sgg_store.records import Record


class SchemaState(StrEnum):
    """How a database's tables compare with what this version needs."""

    CURRENT = "current"
    EMPTY = "empty"  # it has none of the tables
    OLDER = "older"
    UNKNOWN = "unknown"  # of a newer version, or not made by sgg's migrations


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What the database has and what this version needs; `pending` are the revisions in between, oldest first."""

    state: SchemaState
    revision: str | None
    needed: str
    pending: tuple[str, ...]

    def require_current(self) -> None:
        """Raise SchemaOutdatedError unless the tables are those that this version needs."""
        if self.state is not SchemaState.CURRENT:
            raise SchemaOutdatedError(*_REFUSALS[self.state])


_REFUSALS = {
    SchemaState.EMPTY: ("The database has no tables yet.", "Run `sgg db upgrade`, which makes them."),
    SchemaState.OLDER: (
        "The database's tables belong to an older version of sgg.",
        "Make a backup, then run `sgg db upgrade`.",
    ),
    SchemaState.UNKNOWN: (
        "The database's tables belong to a newer version of sgg, or to another program.",
        "Install the newest version of sgg here, or correct SGG_DATABASE_URL; `sgg db status` says more.",
    ),
}


def no_tables() -> SchemaStatus:
    """The status of a database that is not there."""
    order = _packaged_revisions()
    return SchemaStatus(SchemaState.EMPTY, None, order[-1], tuple(order))


def read_schema_status(connection: Connection) -> SchemaStatus:
    """Compare the database's tables with the packaged migrations."""
    order = _packaged_revisions()
    needed = order[-1]
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision in order:
        pending = order[order.index(revision) + 1 :]
        return SchemaStatus(SchemaState.OLDER if pending else SchemaState.CURRENT, revision, needed, pending)
    if revision is None and not Record.metadata.tables.keys() & set(inspect(connection).get_table_names()):
        return SchemaStatus(SchemaState.EMPTY, None, needed, order)
    return SchemaStatus(SchemaState.UNKNOWN, revision, needed, ())


@cache
def _packaged_revisions() -> tuple[str, ...]:
    """The revisions that the migrations lead through, oldest first; each is a file to be compiled."""
    scripts = ScriptDirectory.from_config(alembic_config(None))
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


def alembic_config(connection: Connection | None) -> Config:
    """Alembic's configuration with the packaged migrations, to run on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
