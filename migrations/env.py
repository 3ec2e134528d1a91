"""Runs migrations on the connection that the store hands over, or on the configured database."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from sgg_store.database import Database
from sgg_store.records import Record
from sgg_store.settings import StoreSettings

_LOCK = 7_305_776_121  # any number that other users of the same Postgres database do not use


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # several replicas may start at once; SQLite's writers take turns
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    context.configure(
        connection=connection,
        target_metadata=Record.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_configured_database() -> None:
    address = context.config.get_main_option("sqlalchemy.url") or StoreSettings().database_url
    database = Database(address)
    with database.connect_for_migration() as connection:
        migrate(connection)
    database.dispose()


handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    migrate(handed_over)
else:
    migrate_configured_database()
