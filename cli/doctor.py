"""`sgg doctor`: looks at everything that the service needs on this machine, and says what to do about what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonFlag, print_json, print_table, say

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

    from cli.checkup.finding import Finding


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Do not load the base models, which takes a while.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check Python, data directory, database, broker, object store, base models, disk, memory, GPU and server.

    The exit code is 0 only if no problem was found; notes do not count.
    """
    found = list(_examine(load=not quick))
    problems = [finding for finding in found if finding.status == "problem"]
    if as_json:
        print_json({"ok": not problems, "findings": [dataclasses.asdict(finding) for finding in found]})
    else:
        rows = [(each.status, each.part, f"{each.message} {each.remedy}".strip()) for each in found]
        print_table(("", "PART", "FINDING"), rows, empty="Nothing was checked.")
        say(_summary(len(problems)), style="bold")
    if problems:
        raise typer.Exit(1)


def _examine(*, load: bool) -> Iterator[Finding]:
    from cli.checkup import machine, models, server, store
    from cli.checkup.finding import Check, Finding, findings_of
    from cli.serve import kinds_of_settings
    from cli.settings_problems import REMEDY, refused_by
    from sgg_store.settings import StoreSettings

    yield from findings_of("python", machine.check_python)
    kinds: tuple[type[BaseSettings], ...] = (StoreSettings, *kinds_of_settings())
    refused = {kind: refused_by(kind) for kind in kinds}
    for problem in dict.fromkeys(problem for problems in refused.values() for problem in problems):
        yield Finding("settings", "problem", problem, REMEDY)
    if refused[StoreSettings]:  # without which nothing else can be looked at
        return
    settings = StoreSettings()
    data_dir = settings.data_dir
    checks: dict[str, Check] = {
        "data directory": lambda: store.check_data_dir(data_dir),
        "lock": lambda: store.check_lock(data_dir),
        "database": lambda: store.check_database(settings),
        "broker": lambda: store.check_broker(settings),
        "object store": lambda: store.check_objects(settings),
        "base models": lambda: models.check_models(settings.catalogue_dir, load),
        "disk": lambda: machine.check_disk(data_dir),
        "memory": machine.check_memory,
        "gpu": machine.check_gpu,
        "server": lambda: server.check_server(data_dir),
    }
    for part, check in checks.items():
        yield from findings_of(part, check)


def _summary(problems: int) -> str:
    if not problems:
        return "All is well."
    return f"{problems} problem{'s' if problems > 1 else ''}."
