"""`--metadata KEY=VALUE`: the pairs that a job carries, and by which jobs are found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from cli.errors import WrongUseError

MetadataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata", metavar="KEY=VALUE", help="A pair that the job carries, such as team=support. Repeatable."
    ),
]
MetadataFilter = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Only jobs that carry this pair. Repeatable."),
]


def parse_metadata(pairs: Iterable[str]) -> dict[str, str]:
    """Give the pairs by their keys. Raises CliError for one without a value, without a key, or given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise WrongUseError(f"--metadata {pair!r} has no key or no value.", "Write --metadata key=value.")
        if key in found:
            raise WrongUseError(f"--metadata {key} is given twice.", "Keep one of them.")
        found[key] = value
    return found
