"""`sgg models`: the catalogue of base models of this machine's data directory. Requests can only name its entries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.errors import CliError
from cli.output import JsonFlag, print_json, print_table, say

if TYPE_CHECKING:
    from sgg_core.catalogue import BaseModelEntry, Catalogue

app = typer.Typer(help="Base models: list, add, remove.", no_args_is_help=True)
USAGE = 2


@app.command("list")
def list_models(as_json: JsonFlag = False) -> None:
    """List the base models that jobs may name, and where their files lie."""
    rows = [_describe(entry) for entry in _catalogue().entries()]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("NAME", "KIND", "PARAMETERS", "CONTEXT", "LICENSE", "FILES"),
        [
            (
                row["name"],
                row["kind"],
                f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else None,
                row["context_tokens"],
                row["license"],
                row["files"] or row["problem"],
            )
            for row in rows
        ],
        empty="There are no base models.",
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What jobs will call it: lower case, digits, dots and dashes.")],
    kind: Annotated[Literal["causal", "encoder"], typer.Option(help="`encoder` classifies only.")],
    directory: Annotated[Path | None, typer.Option(help="A directory in Hugging Face layout.")] = None,
    hub: Annotated[str | None, typer.Option(help="owner/name on the Hugging Face hub; needs --revision.")] = None,
    revision: Annotated[str | None, typer.Option(help="Full commit hash of the hub repository.")] = None,
    context_tokens: Annotated[int, typer.Option(min=16, help="Longest sequence the model was made for.")] = 512,
    license_id: Annotated[str, typer.Option("--license", help="SPDX identifier.")] = "unknown",
    description: Annotated[str, typer.Option(help="One sentence for people.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Add a base model from a directory, or from the hub at one commit; an entry of the same name is replaced."""
    entry = _entry(
        name=name,
        kind=kind,
        source=_source(directory, hub, revision),
        context_tokens=context_tokens,
        license=license_id,
        description=description,
    )
    _catalogue().add(entry)
    if as_json:
        print_json(_describe(entry))
    else:
        say(f"Added {name}. Jobs can name it from now on.")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of an added base model.")], as_json: JsonFlag = False
) -> None:
    """Take an added base model out of the catalogue; its files stay where they are."""
    _catalogue().remove(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        say(f"Removed {name} from the catalogue.")


def _catalogue() -> Catalogue:
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    return Catalogue.load(StoreSettings().catalogue_dir)


def _source(directory: Path | None, hub: str | None, revision: str | None) -> dict[str, Any]:
    if (directory is None) == (hub is None):
        raise CliError("Where are the files?", "Give either --directory or --hub with --revision.", exit_code=USAGE)
    if directory is None:
        if revision is None:
            raise CliError("--hub needs --revision.", "Pin the full commit hash of the repository.", exit_code=USAGE)
        return {"type": "hub", "repo_id": hub, "revision": revision}
    if not (directory / "config.json").is_file():
        raise CliError(f"{directory} has no config.json.", "Give a directory in Hugging Face layout.")
    return {"type": "directory", "path": directory.absolute()}


def _entry(**fields: Any) -> BaseModelEntry:
    from pydantic import ValidationError

    from sgg_core.catalogue import BaseModelEntry

    try:
        return BaseModelEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CliError(f"{place}: {first['msg']}.", "Correct this value.", exit_code=USAGE) from error


def _describe(entry: BaseModelEntry) -> dict[str, Any]:
    """Return the entry with `files`, where they lie, or `problem`, why they cannot be used here."""
    files, problem = _locate(entry)
    return entry.model_dump(mode="json") | {"files": files, "problem": problem}


def _locate(entry: BaseModelEntry) -> tuple[str | None, str | None]:
    from sgg_core.errors import BaseModelUnavailableError

    if entry.source.type == "hub":
        return f"{entry.source.repo_id}@{entry.source.revision[:12]} on the Hugging Face hub", None
    if entry.source.type == "directory":
        path = entry.source.path
        return (str(path), None) if path.is_dir() else (None, f"{path} is missing.")
    try:
        return str(entry.source.locate()), None
    except BaseModelUnavailableError as error:
        return None, str(error)
