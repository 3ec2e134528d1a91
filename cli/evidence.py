"""`sgg jobs report`, `compare` and `examples`: what a job's result is worth, and which of its labels are suspicious."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.client import Client
from cli.errors import CliError
from cli.output import JsonFlag, print_json, print_table, printable, say


def report(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="An id such as ftjob-....")],
    form: Annotated[
        Literal["markdown", "html"], typer.Option("--format", help="How the report is written for people.")
    ] = "markdown",
    out: Annotated[Path | None, typer.Option(help="Write it to this new file instead of printing it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the report on what a job made: figures, baselines, calibration, the hardest examples.

    A terminal is not shown what only a file has a use for: the front matter, and links to pictures.
    """
    with Client.from_environment() as client:
        content = client.text(f"/fine_tuning/jobs/{job_id}/report", {"format": "json" if as_json else form})
    if out is None:
        if as_json or form != "markdown":
            sys.stdout.write(content)
        else:
            sys.stdout.write(printable(without_files(content) if sys.stdout.isatty() else content))
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as error:
        raise CliError(f"Cannot write {out}: {error.strerror}.", "Give the path of a new file.") from error
    say(f"Wrote {out}.")


def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID JOB_ID...", help="Two to eight jobs.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare jobs: the settings that differ, their figures, and their answers to the same examples."""
    with Client.from_environment() as client:
        found = client.get("/fine_tuning/compare", {"jobs": ",".join(job_ids)})
    if as_json:
        print_json(found)
        return
    ids = [job["id"] for job in found["jobs"]]
    rows = [(job["id"], job["status"], _number(job["valid_accuracy"]), _number(job["valid_loss"]), job["name"])
            for job in found["jobs"]]  # fmt: skip
    print_table(("JOB", "STATUS", "ACCURACY", "LOSS", "MODEL"), rows, empty="There are no jobs.")
    say("")
    differences = [(each["field"], *(_value(each["values"][job_id]) for job_id in ids))
                   for each in found["spec_differences"]]  # fmt: skip
    print_table(("SETTING", *ids), differences, empty="The jobs have the same settings.")
    say("")
    for pair in found["paired"]:
        say(pair["verdict"])


def examples(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="An id such as ftjob-....")],
    limit: Annotated[int, typer.Option(min=1, max=2000, help="How many, the most suspicious first.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """List the training examples whose labels are the most suspicious, with the reason."""
    with Client.from_environment() as client:
        found = client.get(f"/fine_tuning/jobs/{job_id}/examples", {"limit": limit})
    if as_json:
        print_json(found)
        return
    for each in found["data"]:
        say(f"line {each['line']}, label {each['label']!r}, suspicion {each['suspicion']:.2f}", style="bold")
        if each["text"] is not None:
            say(f"  {each['text']}")
        say(f"  {each['reason']}")


def without_files(card: str) -> str:
    """The Markdown of a report without its front matter and its pictures."""
    card = re.sub(r"\A---\n.*?^---\n+", "", card, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^!\[[^\]\n]*\]\([^)\n]*\)\n+", "", card, flags=re.MULTILINE)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _value(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
