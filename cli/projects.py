"""`sgg projects`: create, list, show, set. For administrators."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.client import Client
from cli.errors import WrongUseError
from cli.output import JsonFlag, moment, print_facts, print_json, print_table, say, size

app = typer.Typer(help="Projects and their quotas: create, list, show, set.", no_args_is_help=True)

PATH = "/organization/projects"
ProjectId = Annotated[str, typer.Argument(metavar="PROJECT_ID", help="An id such as proj-....")]


def _limit(what: str) -> Any:
    return typer.Option(metavar="N", help=f"{what}; `default` takes the server's.")


Running = Annotated[str | None, _limit("How many jobs may run at once")]
Queued = Annotated[str | None, _limit("How many jobs may wait at once")]
Stored = Annotated[str | None, _limit("How many bytes of files may be kept")]
Trainer = Annotated[str | None, _limit("How many seconds of training a day (UTC)")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For people: a team, an application.")],
    max_running_jobs: Running = None,
    max_queued_jobs: Queued = None,
    max_stored_bytes: Stored = None,
    max_trainer_seconds_per_day: Trainer = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a project."""
    quotas = _quotas(max_running_jobs, max_queued_jobs, max_stored_bytes, max_trainer_seconds_per_day)
    with Client.from_environment() as client:
        project = client.post(PATH, {"name": name, "sgg": {"quotas": quotas}})
    if as_json:
        print_json(project)
        return
    say(f"Made {project['id']}.")
    say(f"Give it a key with: sgg keys create --project {project['id']} --name NAME --scope jobs:write ...")


@app.command("list")
def list_projects(as_json: JsonFlag = False) -> None:
    """List projects."""
    with Client.from_environment() as client:
        found = list(client.items(PATH))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "NAME", "RUNNING", "QUEUED", "STORED"),
        [(one["id"], one["name"], *_used(one["sgg"]["quotas"])) for one in found],
        empty="There are no projects.",
    )


@app.command()
def show(project_id: ProjectId, as_json: JsonFlag = False) -> None:
    """Show one project, its quotas, and what is used of them."""
    with Client.from_environment() as client:
        project = client.get(f"{PATH}/{project_id}")
    _print(project, as_json)


@app.command("set")
def set_(
    project_id: ProjectId,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    max_running_jobs: Running = None,
    max_queued_jobs: Queued = None,
    max_stored_bytes: Stored = None,
    max_trainer_seconds_per_day: Trainer = None,
    as_json: JsonFlag = False,
) -> None:
    """Rename a project or set its quotas; options left out change nothing."""
    quotas = _quotas(max_running_jobs, max_queued_jobs, max_stored_bytes, max_trainer_seconds_per_day)
    if name is None and not quotas:
        raise WrongUseError("There is nothing to set.", "Give --name or one of the --max-... options.")
    change: dict[str, Any] = {"sgg": {"quotas": quotas}} | ({"name": name} if name is not None else {})
    with Client.from_environment() as client:
        project = client.post(f"{PATH}/{project_id}", change)
    _print(project, as_json)


def _print(project: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(project)
        return
    quotas = [(name.replace("_", " "), _in_words(quota)) for name, quota in project["sgg"]["quotas"].items()]
    created = ("created", moment(project["created_at"]))
    print_facts((("id", project["id"]), ("name", project["name"]), created, *quotas))


def _in_words(quota: dict[str, Any]) -> str:
    limit = "no limit" if quota["limit"] is None else f"{quota['limit']:,}"
    return f"{quota['used']:,} of {limit}{'' if quota['source'] == 'project' else ' (server default)'}"


def _used(quotas: dict[str, Any]) -> tuple[object, ...]:
    return quotas["running_jobs"]["used"], quotas["queued_jobs"]["used"], size(quotas["stored_bytes"]["used"])


def _quotas(running: str | None, queued: str | None, stored: str | None, trainer: str | None) -> dict[str, int | None]:
    given = {
        "running_jobs": running,
        "queued_jobs": queued,
        "stored_bytes": stored,
        "trainer_seconds_per_day": trainer,
    }
    return {name: _number(name, text) for name, text in given.items() if text is not None}


def _number(name: str, text: str) -> int | None:
    if text == "default":
        return None
    if not (text.isascii() and text.isdigit()):
        option = f"--max-{name.replace('_', '-')}"
        raise WrongUseError(f"{option} is {text!r}.", "Give a whole number, or `default`.")
    return int(text)
