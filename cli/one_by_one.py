"""Commands with several arguments: one after another, each told as it is done; a failure does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer

from cli.errors import CliError, ServerUnreachableError
from cli.output import print_failure, print_json

Argument = TypeVar("Argument")


def one_by_one(
    arguments: Iterable[Argument],
    act: Callable[[Argument], dict[str, Any]],
    tell: Callable[[dict[str, Any]], None],
    *,
    as_json: bool,
) -> None:
    """Act on each argument and tell of it; the JSON is the list of what was done. Exits with 1 if anything failed."""
    done: list[dict[str, Any]] = []
    failed = False
    try:
        for argument in arguments:
            try:
                done.append(act(argument))
            except ServerUnreachableError:  # nor would it answer about the others
                raise
            except CliError as error:
                failed = True
                print_failure(error, as_json=as_json, argument=str(argument))
            else:
                if not as_json:
                    tell(done[-1])
    finally:
        if as_json:
            print_json(done)
    if failed:
        raise typer.Exit(1)
