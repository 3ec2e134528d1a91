"""`sgg audit`: who changed what, and who was refused. For administrators."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.client import Client
from cli.output import JsonFlag, print_json, print_table

PATH = "/organization/audit_logs"
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


class Outcome(StrEnum):
    """How a call ended."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"


def audit(
    project: Annotated[list[str] | None, typer.Option(help="Only by this project's keys. Repeatable.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Only by this key (its id). Repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Only this action, such as job.created. Repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only entries about this id. Repeatable.")] = None,
    outcome: Annotated[list[Outcome] | None, typer.Option(help="Only these. Repeatable.")] = None,
    since: Annotated[datetime.datetime | None, typer.Option(formats=DATES, help="From this local time on.")] = None,
    until: Annotated[datetime.datetime | None, typer.Option(formats=DATES, help="Before this local time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show the audit log, newest first: every call that changed something, and those that were refused."""
    wanted: dict[str, list[str]] = {
        "project_ids[]": project or [],
        "actor_ids[]": key or [],
        "event_types[]": action or [],
        "resource_ids[]": target or [],
        "outcomes[]": [one.value for one in outcome or []],
        "effective_at[gte]": [str(since.timestamp())] if since else [],
        "effective_at[lt]": [str(until.timestamp())] if until else [],
    }
    with Client.from_environment() as client:
        found = list(client.items(PATH, limit=limit, filters=wanted))
    if as_json:
        print_json(found)
        return
    print_table(
        ("WHEN", "WHAT", "TARGET", "OUTCOME", "KEY", "FROM"),
        [_row(entry) for entry in found],
        empty="Nothing was changed or refused.",
    )


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    ours, actor = entry["sgg"], entry["actor"]
    when = datetime.datetime.fromtimestamp(entry["effective_at"]).strftime("%Y-%m-%d %H:%M:%S")
    left_out = f" (and {ours['repeats']} more)" if ours["repeats"] else ""
    outcome = ours["outcome"] if ours["outcome"] == "succeeded" else f"{ours['outcome']} {ours['status']}{left_out}"
    return when, entry["type"], ours["target"], outcome, actor and actor["api_key"]["id"], ours["client_address"]
