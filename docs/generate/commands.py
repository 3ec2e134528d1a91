"""The command line as the program itself describes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cli.main import app


def reference() -> str:
    """Describe every command with its arguments and options."""
    return "\n".join(_described(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Give every command that does something, with the words that call it, in the order of `--help`."""
    yield from _below("sgg", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _below(f"{path} {name}", child)


def _described(path: str, command: Any) -> str:
    usage = " ".join([path, *command.collect_usage_pieces(typer.Context(command))])
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    table = "| option or argument | takes | what it is |\n|---|---|---|\n" + "\n".join(rows)
    return f"## `{path}`\n\n{_text(command.help)}\n\n```text\n{usage}\n```\n\n{table if rows else ''}\n"


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.metavar or parameter.name.upper() if is_argument else ", ".join(parameter.opts)
    notes = []
    if parameter.required and not is_argument:
        notes.append("required")
    if parameter.default not in (None, (), [], False) and not callable(parameter.default):
        notes.append(f"default: `{parameter.default}`")
    more = f" ({'; '.join(notes)})" if notes else ""
    takes = "" if getattr(parameter, "is_flag", False) else f"`{parameter.display_type(None).strip('<>')}`"
    return f"| `{names}` | {_cell(takes)} | {_cell(_text(parameter.help or '') + more)} |"


def _text(help_text: str) -> str:
    return " ".join(help_text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
