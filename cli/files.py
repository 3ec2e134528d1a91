"""`sgg files`: check a file here, upload it, list and delete what the server has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.client import Client
from cli.completion import complete_files
from cli.data_files import DataFiles
from cli.one_by_one import one_by_one
from cli.output import JsonFlag, moment, print_facts, print_json, print_table, say, size, what_it_shows

if TYPE_CHECKING:
    from sgg_core.errors import Problem
    from sgg_core.examples import ExampleSet

app = typer.Typer(help="Data files: check, preview, upload, list, delete.", no_args_is_help=True)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A .jsonl or .csv file.")],
    validation: Annotated[Path | None, typer.Option(help="Also check that this validation file fits.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a training file without a server; every problem is listed with its line."""
    from sgg_core.examples import check_training, check_validation
    from sgg_core.significance import smallest_difference
    from sgg_core.suspicions import leaks, probably_cut

    files = DataFiles()
    training = files.read(path)
    held_out = files.read(validation) if validation else None
    if training is not None:
        files.check(check_training, training)
        if held_out is not None:
            files.check(check_validation, training, held_out)
    files.refuse()
    assert training is not None
    facts = [_facts(training, [*training.warnings, *probably_cut(training.examples, training.lines)])]
    if held_out is not None:
        leaked = leaks(training.examples, training.lines, held_out.examples, held_out.lines)
        shows = smallest_difference(len(held_out)) if held_out.kind == "classification" else None
        cut = probably_cut(held_out.examples, held_out.lines)
        facts.append(_facts(held_out, [*held_out.warnings, *leaked, *cut]) | {"smallest_difference": shows})
    if as_json:
        print_json(facts)
        return
    for one in facts:
        _print_check(one)


@app.command()
def upload(
    paths: Annotated[list[Path], typer.Argument(help="Files to upload.")],
    as_json: JsonFlag = False,
) -> None:
    """Upload data files; the server refuses bad ones and says what is wrong with them. The others are kept."""
    with Client.from_environment() as client:
        one_by_one(paths, client.upload, _tell_upload, as_json=as_json)


@app.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many, newest first.")] = 50,
    purpose: Annotated[
        str | None, typer.Option(help="Only files of this purpose: fine-tune (data) or fine-tune-results.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the files on the server, newest first."""
    with Client.from_environment() as client:
        found = list(client.items("/files", limit=limit, filters={"purpose": [purpose]} if purpose else None))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "NAME", "SIZE", "PURPOSE", "CREATED"),
        [
            (file["id"], file["filename"], size(file["bytes"]), file["purpose"], moment(file["created_at"]))
            for file in found
        ],
        empty=f"No file has the purpose {purpose}."
        if purpose
        else "There are no files yet; `sgg files upload FILE` adds one.",
    )


@app.command()
def delete(
    file_ids: Annotated[
        list[str], typer.Argument(metavar="FILE_ID...", help="Ids such as file-....", autocompletion=complete_files)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Delete files. A file that a queued or running job or a model needs is kept, and the job or model is named."""
    with Client.from_environment() as client:
        one_by_one(
            file_ids,
            lambda file_id: client.delete(f"/files/{file_id}"),
            lambda deleted: say(f"Deleted {deleted['id']}."),
            as_json=as_json,
        )


def _facts(examples: ExampleSet, warnings: Iterable[Problem]) -> dict[str, Any]:
    return {
        "filename": examples.filename,
        "kind": examples.kind,
        "examples": len(examples),
        "labels": list(examples.labels),
        "sha256": examples.sha256,
        "warnings": [str(warning) for warning in warnings],
    }


def _tell_upload(file: dict[str, Any]) -> None:
    contents = file["sgg"]
    labels = ", ".join(contents["labels"])
    what = f"{contents['examples']} {contents['kind']} examples" if contents["examples"] else contents["kind"]
    holds = f"{what}; labels: {labels}" if labels else what
    say(f"{file['filename']} is {file['id']}: {size(file['bytes'])}, {holds}.")
    for warning in contents["warnings"]:
        say(f"{file['filename']}, {_place(warning)}: {warning['reason']} {warning['remedy']}", style="yellow")


def _print_check(facts: dict[str, Any]) -> None:
    labels, shown = facts["labels"], facts.get("smallest_difference")
    print_facts(
        (
            ("file", f"{facts['filename']} is good"),
            ("kind", facts["kind"]),
            ("examples", facts["examples"]),
            ("labels", f"{len(labels)}: {', '.join(labels)}" if labels else None),
            ("can show", what_it_shows(shown) if "smallest_difference" in facts and facts["labels"] else None),
            ("sha256", facts["sha256"]),
        )
    )
    for warning in facts["warnings"]:
        say(f"warning: {warning}", style="yellow")


def _place(problem: dict[str, Any]) -> str:
    return "file" if problem["line"] is None else f"line {problem['line']}"
