"""`sgg db`: look at, upgrade and back up the database. Works on the database itself, not through a server."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.data_dir_lock import locked
from cli.errors import CliError
from cli.output import JsonFlag, print_facts, print_json, say, size

if TYPE_CHECKING:
    from sgg_store.database import Database
    from sgg_store.schema import SchemaStatus

app = typer.Typer(help="The database: status, upgrade, backup.", no_args_is_help=True)

DataDirOption = Annotated[
    Path | None,
    typer.Option(help="The server's data directory.  [default: $SGG_DATA_DIR or ~/.local/share/sgg]"),
]
EXPLANATIONS = {
    "current": "The tables are those that this version of sgg needs.",
    "empty": "There are no tables yet; `sgg db upgrade` makes them.",
    "older": "The tables are of an older version; make a backup, then run `sgg db upgrade`.",
    "unknown": "The tables are of a newer version of sgg, or of another program; install the newest version here.",
}


@app.command()
def status(data_dir: DataDirOption = None, as_json: JsonFlag = False) -> None:
    """Show which version the tables have and which one is needed; exit code 0 only if they agree."""
    settings = store_settings(data_dir)
    if as_json and not _exists(settings):
        from sgg_store.schema import no_tables

        print_json({"database": settings.database_url, **_of_schema(no_tables())})
        raise typer.Exit(1)
    database = existing_database(settings)
    try:
        found = database.schema_status()
    finally:
        database.dispose()
    _print(_facts(database, found), as_json)
    if found.state != "current":
        raise typer.Exit(1)


@app.command()
def upgrade(data_dir: DataDirOption = None, as_json: JsonFlag = False) -> None:
    """Upgrade the tables to the version that is needed. Make a backup first: there is no downgrade."""
    from sgg_store.database import Database

    settings = store_settings(data_dir)
    database = Database(settings.database_url)
    try:
        with locked(settings.data_dir) if settings.database_is_embedded else nullcontext():
            before = database.schema_status()
            database.upgrade_schema()
            facts = _facts(database, database.schema_status()) | {"applied": list(before.pending)}
    finally:
        database.dispose()
    _print(facts, as_json)


@app.command()
def backup(
    directory: Annotated[Path, typer.Argument(help="New directory for the copy.")],
    data_dir: DataDirOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy a data directory while its server runs; the copy is a data directory that `sgg serve` can start on."""
    from sgg_store.backup import ANOTHER_PLACE, back_up

    settings = store_settings(data_dir)
    try:
        made = back_up(settings, directory.expanduser().absolute())
    except OSError as error:
        raise CliError(f"Cannot write the backup: {error.strerror or error}.", ANOTHER_PLACE) from error
    if as_json:
        print_json({"directory": str(made.directory), "database_bytes": made.database_bytes, "objects": made.objects})
        return
    held = f"a database of {size(made.database_bytes)}"
    say(f"{made.directory} holds {held}" + ("" if made.objects is None else f" and {made.objects} objects") + ".")
    if made.objects is None:
        say(f"The objects are not in it; copy {settings.object_store_url}, too.", style="yellow")
    say(f"Start it with: sgg serve --data-dir {made.directory}")


def store_settings(data_dir: Path | None) -> Any:
    """Give the store's settings, for the data directory if one is named."""
    from sgg_store.settings import StoreSettings

    if data_dir is not None:
        os.environ["SGG_DATA_DIR"] = str(data_dir.expanduser().absolute())
    return StoreSettings()


def existing_database(settings: Any) -> Database:
    """Open the database. Raises CliError where there is none in the data directory: SQLite would make an empty one."""
    from sgg_store.database import Database

    if not _exists(settings):
        raise CliError(
            f"There is no database in {settings.data_dir}.",
            "Name the server's data directory with --data-dir; `sgg serve` makes a new one there.",
        )
    return Database(settings.database_url)


def _exists(settings: Any) -> bool:
    return not settings.database_is_embedded or (settings.data_dir / "sgg.sqlite3").exists()


def _facts(database: Any, found: SchemaStatus) -> dict[str, Any]:
    return {
        "database": database.engine.url.render_as_string(hide_password=True),
        **_of_schema(found),
    }


def _of_schema(found: SchemaStatus) -> dict[str, Any]:
    return {
        "state": found.state.value,
        "revision": found.revision,
        "needed": found.needed,
        "pending": list(found.pending),
    }


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    lists = {name: ", ".join(value) or None for name, value in facts.items() if isinstance(value, list)}
    print_facts(list((facts | lists).items()))
    say(EXPLANATIONS[facts["state"]])
