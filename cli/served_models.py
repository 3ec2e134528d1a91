"""`sgg models served | delete`: the models of a server, base models and those that its jobs made."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from cli.client import Client
from cli.completion import complete_models
from cli.one_by_one import one_by_one
from cli.output import JsonFlag, moment, print_json, print_table, say


def served(as_json: JsonFlag = False) -> None:
    """List the models on the server: base models that jobs may name, then what your project's jobs made."""
    with Client.from_environment() as client:
        found = client.get("/models")["data"]
    if as_json:
        print_json(found)
        return
    print_table(
        ("MODEL", "KIND", "CREATED"),
        [(each["id"], each["sgg"]["kind"] or each["sgg"]["type"], moment(each["created"] or None)) for each in found],
        empty="The server has no base models.",
    )


def delete(
    names: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Names such as ft:...", autocompletion=complete_models),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Delete fine-tuned models, or checkpoints of finished jobs, from the server; the jobs and their metrics stay."""
    with Client.from_environment() as client:
        one_by_one(
            names,
            lambda name: client.delete(f"/models/{quote(name, safe='')}"),
            lambda deleted: say(f"Deleted {deleted['id']}."),
            as_json=as_json,
        )
