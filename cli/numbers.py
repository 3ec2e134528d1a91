"""Options that are several numbers."""

from __future__ import annotations

from cli.errors import WrongUseError


def numbers(text: str, example: str) -> tuple[int, ...]:
    """Whole numbers from 1 on, comma-separated, of the option that `example` begins with. Raises CliError."""
    option = example.split()[0]
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise WrongUseError(f"{option} {text!r} is not a list of whole numbers.", f"Write {example}.") from error
    if min(found) < 1:
        raise WrongUseError(f"{option} {text!r} holds a number below 1.", f"Write {example}.")
    return found
