"""`sgg files preview`: what the base model will see of a file, and which parts are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cli.client import Client
from cli.completion import complete_models
from cli.hyperparameters import DEFAULT_METHOD, MethodOption, SetOption, build_spec, parse_settings, to_request
from cli.job_file import FILE_ID
from cli.output import JsonFlag, console, print_json, printable, say

TRAINED = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"
SERVER_SECONDS = 120.0  # a worker may have to load the base model first


def preview(
    file: Annotated[str, typer.Argument(help="A .jsonl or .csv file here, or the id of an uploaded one.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of a base model.", autocompletion=complete_models)],
    method: MethodOption = None,
    settings: SetOption = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many of the first examples.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Show what the base model will see, with the trained parts in brackets. A file here needs no server."""
    method, chosen = method or DEFAULT_METHOD, parse_settings(settings or ())
    spec = build_spec(model, method, 0, chosen)
    if FILE_ID.fullmatch(file):
        body = {"model": model, "training_file": file, "limit": limit}
        with Client.from_environment(timeout=SERVER_SECONDS) as client:
            choice = {"type": method, method: {"hyperparameters": to_request(chosen)}}
            told = client.post("/fine_tuning/preview", body | {"method": choice})
    else:
        told = _here(Path(file), spec, limit)
    if as_json:
        print_json(told)
    else:
        _print(told)


def _here(path: Path, spec: Any, limit: int) -> dict[str, Any]:
    """Render with the base model of this machine; in the shape of the server's answer."""
    from sgg_core.examples import read_examples

    data = read_examples(path)  # whose errors need no base model

    from sgg_core.base_loading import load_base
    from sgg_core.catalogue import Catalogue
    from sgg_core.preview import preview as render
    from sgg_store.settings import StoreSettings

    entry = Catalogue.load(StoreSettings().catalogue_dir).get(spec.base_model)
    rendered = render(spec, load_base(entry), data, limit)
    examples = [example.model_dump(mode="json") for example in rendered.examples]
    return {"object": "fine_tuning.preview", "trained": rendered.trained, "data": examples}


def _print(told: dict[str, Any]) -> None:
    say(f"Trained, and in {''.join(TRAINED)} below: {told['trained'][:1].lower()}{told['trained'][1:]}")
    for example in told["data"]:
        cut = ", cut at its end" if example["truncated"] else ""
        label = "" if example["label"] is None else f", label {example['label']!r}"
        counts = f"{example['tokens']} tokens, {example['trained_tokens']} trained"
        say(f"\nline {example['line']}: {counts}{label}{cut}", style="bold")
        if example["segments"]:
            console().print(_text(example["segments"]))
        if example["problem"] is not None:
            say(f"error: {example['problem']['reason']} {example['problem']['remedy']}", style="red")


def _text(segments: list[dict[str, Any]]) -> Text:
    """Segments as they are, the trained ones in brackets and, on a terminal, in colour."""
    text = Text()
    for segment in segments:
        words = printable(segment["text"])
        if segment["trained"]:
            text.append(f"{TRAINED[0]}{words}{TRAINED[1]}", style="bold green")
        else:
            text.append(words)
    return text
