"""`sgg predict`: what a trained adapter says about new texts, here or on a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CliError, WrongUseError, cannot_read
from cli.output import JsonFlag, complain, print_json_line, print_table
from cli.remote_predict import RemotePredictor, row_of
from sgg_core.imports import without_collector

if TYPE_CHECKING:
    from sgg_core.parsing import Row


def predict(
    directory: Annotated[
        Path | None, typer.Argument(help="Directory of a trained adapter, to run it on this machine.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a model (ft:...) on the server at SGG_BASE_URL, to ask it there."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to classify, or a prompt. Repeatable.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Rows in .jsonl or .csv with the training file's fields; - is standard input."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict with a trained adapter: a table for --text; for --file one JSON object a line, in its order.

    Labelled rows keep their own label as `given_label`.
    """
    if (directory is None) == (model is None):
        raise WrongUseError(
            "No adapter is named." if model is None else "Both a directory and --model are given.",
            "Give the directory of a trained adapter, or --model with the name of a model on the server.",
        )
    if directory is not None and not directory.is_dir():
        raise CliError(f"There is no directory {directory}.", "Give the directory of a trained adapter.")
    if (text is None) == (file is None):
        raise WrongUseError(
            "Nothing to predict." if text is None else "Both --text and --file are given.",
            "Give --text '...' (repeatable) or --file ROWS.",
        )
    if not all(each.strip() for each in text or ()):
        raise WrongUseError("The --text is empty.", "Give --text '...' with the text to predict for.")
    read = [] if file is None else _rows(file)
    answered = _there(model, text, read, file) if directory is None else _here(directory, text, read, file)
    if as_json or file is not None:
        for row, prediction in answered:
            print_json_line(_joined(row, prediction))
    else:
        _print(list(answered))


Answered = Iterator[tuple[dict[str, Any], dict[str, Any]]]


def _there(model: str | None, text: list[str] | None, read: list[Row], file: Path | None) -> Answered:
    from cli.client import Client

    assert model is not None
    with Client.from_environment() as client:
        predictor = RemotePredictor(client, model)
        if text is not None or file is None:
            yield from predictor.predict_texts(text or ())
        else:
            rows, lines = [row.fields for row in read], [row.line for row in read]
            yield from predictor.predict_rows(rows, file.name, lines)


def _here(directory: Path, text: list[str] | None, read: list[Row], file: Path | None) -> Answered:
    from sgg_core.asked import asked_examples
    from sgg_core.catalogue import Catalogue
    from sgg_core.manifest import verify_weights
    from sgg_store.settings import StoreSettings

    manifest, catalogue = verify_weights(directory), Catalogue.load(StoreSettings().catalogue_dir)
    catalogue.get(manifest.spec.base_model)
    kind = manifest.kind
    rows = [row.fields for row in read] if text is None else [row_of(each, kind) for each in text]
    name = "the texts" if file is None else file.name
    lines = range(1, len(rows) + 1) if text is not None else [row.line for row in read]
    examples = asked_examples(kind, rows, name, lines)  # what is wrong is said before torch is loaded, which takes long
    with without_collector():
        from sgg_core.predictor import load_predictor

    predictor = load_predictor(directory, catalogue=catalogue)
    if (warning := predictor.warning()) is not None:
        complain(f"warning: {warning}")
    predictions = predictor.answer(examples, name, lines)
    yield from zip(rows, predictions, strict=True)


def _rows(path: Path) -> list[Row]:
    from sgg_core.errors import DataError
    from sgg_core.parsing import ProblemLog, read_rows

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    log = ProblemLog()
    rows = list(read_rows(content, path.name, log))
    if log.problems:
        raise DataError(path.name, tuple(log.problems))
    if not rows:
        complain(f"warning: {path.name} has no rows, so there is nothing to answer.")
    return rows


def _joined(row: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
    """The row with what is predicted; what it says itself under such a name, as a labelled row does, is `given_...`."""
    return {(f"given_{name}" if name in prediction else name): value for name, value in row.items()} | prediction


def _print(answered: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    if answered and "label" in answered[0][1]:
        print_table(
            ("LABEL", "PROBABILITY", "TEXT"),
            [(found["label"], f"{found['probabilities'][found['label']]:.3f}", row["text"]) for row, found in answered],
            empty="There are no rows.",
        )
        return
    print_table(("COMPLETION",), [(found["completion"],) for _, found in answered], empty="There are no rows.")
