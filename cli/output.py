"""How commands print: tables and sentences for people, JSON for programs, colours only on terminals."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.errors import facts_of

JSON = "sgg.json"
"""Where the context of a command keeps whether it was asked for JSON; contexts share it with those around them."""


def _remember(context: typer.Context, wanted: bool) -> bool:
    context.meta[JSON] = wanted
    return wanted


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.", callback=_remember)]

WIDE = 10_000  # columns of a table that nobody looks at: nothing is cut when the output is piped


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present standard output (or error) that never interprets data as markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def printable(text: object) -> str:
    """Replace control characters, so that a file name or label from elsewhere cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def say(text: str, *, style: str | None = None) -> None:
    """Print one sentence to standard output."""
    console().print(printable(text), style=style)


def complain(text: str, *, style: str | None = None) -> None:
    """Print one sentence to standard error."""
    console(stderr=True).print(printable(text), style=style)


def print_failure(error: Exception, *, as_json: bool, **more: Any) -> None:
    """Print an expected failure to standard error: `error:`, what happened, what to do; or `error` as a line of JSON.

    Standard output is left to results, which programs read. `more` stands beside `error` in the JSON.
    """
    facts = facts_of(error)
    if as_json:
        sys.stderr.write(json.dumps(more | {"error": facts}, ensure_ascii=False) + "\n")
        return
    words = printable(f"{facts['message']} {facts['remedy']}".strip())
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), words))


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON document on one line and hand it over at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under column names; `empty` is the sentence printed when there are none. None is shown as a dash."""
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        names_the_row = index == 0 and len(columns) > 1  # ids and names are there to be copied, so they stay whole
        table.add_column(column, overflow="fold", no_wrap=names_the_row)
    for row in rows:
        table.add_row(*("-" if cell is None else printable(cell) for cell in row))
    console().print(table)


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values in two columns, leaving out the values that are None."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            table.add_row(name, printable(value))
    console().print(table)


def moment(seconds: int | float | None) -> str | None:
    """Return a Unix time in local time to the minute, or None."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def size(count: int) -> str:
    """Return a number of bytes in units a person reads: B, kB, MB, GB (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    for power, unit in ((1, "kB"), (2, "MB")):
        if count < 1000 ** (power + 1):
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count / 1000**3:.1f} GB"


def what_it_shows(smallest_difference: float | None) -> str:
    """Say what a validation file can show, given the smallest difference in accuracy (0 to 1) that it can."""
    if smallest_difference is None or smallest_difference >= 1:
        return "no difference in accuracy: there are too few examples"
    return f"differences in accuracy of {100 * smallest_difference:.1f} % and more"
