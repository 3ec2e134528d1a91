"""`sgg models`: the catalogue of base models of this machine's data directory, and the models of a server.

Requests can only name entries of the catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.errors import CliError, WrongUseError
from cli.output import JsonFlag, complain, print_json, print_table, say
from cli.served_models import delete, served

if TYPE_CHECKING:
    from sgg_core.catalogue import BaseModelEntry, Catalogue

app = typer.Typer(
    help="Base models of this machine: list, add, remove. Models on the server: served, delete.", no_args_is_help=True
)
FEWEST_TOKENS = 16
MOST_TOKENS = 8192  # task.max_tokens goes no higher, and a trial's time grows with what it may show the model
# Kinds of models whose positions are counted from behind the padding's id, so that so many fewer are for tokens.
AFTER_PADDING = {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}


@app.command("list")
def list_models(as_json: JsonFlag = False) -> None:
    """List the base models of this machine's catalogue, and where their files lie."""
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
    context_tokens: Annotated[
        int | None,
        typer.Option(
            min=FEWEST_TOKENS,
            help="Longest sequence the model was made for.  [default: what its config.json says, at most "
            f"{MOST_TOKENS}; 512 where that is unknown]",
        ),
    ] = None,
    license_id: Annotated[str, typer.Option("--license", help="SPDX identifier.")] = "unknown",
    description: Annotated[str, typer.Option(help="One sentence for people.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Add a base model from a directory, or from the hub at one commit; an entry of the same name is replaced."""
    source = _source(directory, hub, revision)
    known = context_tokens or _context_of(source)
    entry = _entry(
        name=name,
        kind=kind,
        source=source,
        license=license_id,
        description=description,
        **({"context_tokens": known} if known else {}),
    )
    _catalogue().add(entry)
    if not known:
        complain(
            f"The context of {name} is not known; {entry.context_tokens} tokens are assumed. --context-tokens sets it."
        )
    told = _describe(entry)
    if as_json:
        print_json(told)
    elif told["problem"]:
        say(f"Added {name}. {told['problem']}")
    else:
        say(f"Added {name} with a context of {entry.context_tokens:,} tokens. Jobs can use it now.")


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


app.command()(served)
app.command()(delete)


def _catalogue() -> Catalogue:
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    return Catalogue.load(StoreSettings().catalogue_dir)


def _source(directory: Path | None, hub: str | None, revision: str | None) -> dict[str, Any]:
    if (directory is None) == (hub is None):
        raise WrongUseError("Where are the files?", "Give either --directory or --hub with --revision.")
    if directory is None:
        if revision is None:
            raise WrongUseError("--hub needs --revision.", "Pin the full commit hash of the repository.")
        return {"type": "hub", "repo_id": hub, "revision": revision}
    if not (directory / "config.json").is_file():
        raise CliError(f"{directory} has no config.json.", "Give a directory in Hugging Face layout.")
    return {"type": "directory", "path": directory.absolute()}


def _context_of(source: dict[str, Any]) -> int | None:
    """How many tokens the config.json of a base model says that it sees; None where that is unknown, or not here."""
    from sgg_core.base_limits import window_of

    try:
        cached = source["type"] == "hub"
        path = _cached_config(source["repo_id"], source["revision"]) if cached else source["path"] / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path else {}
        told = int(config.get("max_position_embeddings") or config["n_positions"])  # as GPT-2 calls it
        if config.get("model_type") in AFTER_PADDING:
            told -= config.get("pad_token_id", 1) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever stands there, an option can say it
        return None
    told = min(told, MOST_TOKENS, window_of(config) or told)
    return told if told >= FEWEST_TOKENS else None


def _cached_config(repo_id: str, revision: str) -> Path | None:
    """The config.json of a hub's commit, where this machine has it already."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # it comes with the training half
        return None
    found = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    return Path(found) if isinstance(found, str) else None


def _entry(**fields: Any) -> BaseModelEntry:
    from pydantic import ValidationError

    from sgg_core.catalogue import BaseModelEntry

    try:
        return BaseModelEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WrongUseError(f"{place}: {first['msg']}.", "Correct this value.") from error


def _describe(entry: BaseModelEntry) -> dict[str, Any]:
    """Return the entry with `files`, where they lie, or `problem`, why they cannot be used here."""
    files, problem = _locate(entry)
    return entry.model_dump(mode="json") | {"files": files, "problem": problem}


def _locate(entry: BaseModelEntry) -> tuple[str | None, str | None]:
    from sgg_core.errors import BaseModelUnavailableError

    if entry.source.type == "hub":
        repo_id, revision = entry.source.repo_id, entry.source.revision
        if (config := _cached_config(repo_id, revision)) is not None:
            return str(config.parent), None
        return None, f"Its files are not on this machine: run `hf download {repo_id} --revision {revision}` here once."
    if entry.source.type == "directory":
        path = entry.source.path
        return (str(path), None) if path.is_dir() else (None, f"{path} is missing.")
    try:
        return str(entry.source.locate()), None
    except BaseModelUnavailableError as error:
        return None, str(error)
