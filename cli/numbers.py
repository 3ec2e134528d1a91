"""Options that are several numbers."""

from __future__ import annotations

from cli.errors import CliError

USAGE = 2


def numbers(text: str, example: str) -> tuple[int, ...]:
    """Whole numbers from 1 on, comma-separated, of the option that `example` begins with. Raises CliError."""
    option = example.split()[0]
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise CliError(
            f"{option} {text!r} is not a list of whole numbers.", f"Write {example}.", exit_code=USAGE
        ) from error
    if min(found) < 1:
        raise CliError(f"{option} {text!r} holds a number below 1.", f"Write {example}.", exit_code=USAGE)
    return found
