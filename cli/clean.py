"""`sgg clean`: remove what has outlived its time, and objects that nothing needs, without waiting for a worker to."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from cli.db import DataDirOption, existing_database, store_settings
from cli.output import JsonFlag, print_facts, print_json, say, size


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="First claim the objects, if they are recorded as another database's.")
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove expired checkpoints and files, and objects of dead attempts that nothing in the database refers to."""
    from sgg_store.cleaning import Cleaner
    from sgg_store.objects import open_object_store
    from sgg_store.ownership import adopt_objects

    settings = store_settings(data_dir)
    database = existing_database(settings)
    try:
        database.require_current_schema()
        objects = open_object_store(settings.object_store_url)
        if adopt and not dry_run:
            adopt_objects(database, objects)
        cleaned = Cleaner(database, objects, settings).run(dry_run=dry_run)
    finally:
        database.dispose()
    if as_json:
        print_json({"dry_run": dry_run, **dataclasses.asdict(cleaned)})
        return
    print_facts(
        (
            ("checkpoints", cleaned.checkpoints),
            ("files", cleaned.files),
            ("garbage", f"{cleaned.garbage_objects} objects, {size(cleaned.garbage_bytes)}"),
        )
    )
    say("This would be removed. Nothing was removed now." if dry_run else "This was removed.")
