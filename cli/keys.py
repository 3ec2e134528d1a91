"""`sgg keys`: create, list, revoke. For administrators."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cli.client import Client
from cli.output import JsonFlag, moment, print_json, print_table, say

app = typer.Typer(help="API keys of projects: create, list, revoke.", no_args_is_help=True)

DEFAULT_PROJECT = "proj-default"
DAY_SECONDS = 86_400


class Scope(StrEnum):
    """What a key may do."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    MODELS_TRY = "models:try"
    ADMIN = "admin"


Project = Annotated[str, typer.Option(metavar="PROJECT_ID", help="The project that the key belongs to.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="For people: who uses the key, and where.")],
    scope: Annotated[
        list[Scope],
        typer.Option(help="What it may do. Repeatable; `admin` includes all, in every project."),
    ],
    project: Project = DEFAULT_PROJECT,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0.001, max=3650, help="When it stops working.  [default: never]")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print it. It is shown only this once."""
    request = {
        "name": name,
        "scopes": [one.value for one in scope],
        "expires_in_seconds": None if expires_in_days is None else round(expires_in_days * DAY_SECONDS),
    }
    with Client.from_environment() as client:
        key = client.post(_path(project), request)
    if as_json:
        print_json(key)
        return
    say(key["value"])
    say("Keep it now: it cannot be shown again. Use it as SGG_API_KEY, or as the api_key of a client.", style="bold")


@app.command("list")
def list_keys(
    project: Project = DEFAULT_PROJECT,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List a project's keys, without their secrets."""
    with Client.from_environment() as client:
        found = list(client.items(_path(project), filters={"include_revoked": ["true"]} if revoked else None))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "NAME", "STATUS", "SCOPES", "LAST USED", "EXPIRES"),
        [
            (
                one["id"],
                one["name"],
                one["sgg"]["status"],
                " ".join(one["sgg"]["scopes"]),
                moment(one["last_used_at"]),
                moment(one["expires_at"]),
            )
            for one in found
        ],
        empty="The project has no keys; `sgg keys create` makes one.",
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id: what stands between sgg_ and _.")],
    project: Project = DEFAULT_PROJECT,
    as_json: JsonFlag = False,
) -> None:
    """Revoke a key."""
    with Client.from_environment() as client:
        answer = client.delete(f"{_path(project)}/{key_id}")
    if as_json:
        print_json(answer)
    else:
        say(f"{key_id} is revoked.")


def _path(project: str) -> str:
    return f"/organization/projects/{project}/api_keys"
