"""`sgg predict`: what a trained adapter says about new texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CliError
from cli.output import JsonFlag, print_json_line, print_table

if TYPE_CHECKING:
    from sgg_core.parsing import Row

USAGE = 2


def predict(
    directory: Annotated[Path, typer.Argument(help="Directory of a trained adapter.")],
    text: Annotated[list[str] | None, typer.Option(help="A text to classify, or a prompt. Repeatable.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Rows in .jsonl or .csv with the training file's fields; - is standard input."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict with a trained adapter: a table for --text; for --file one JSON object a line, in its order."""
    if not directory.is_dir():
        raise CliError(f"There is no directory {directory}.", "Give the directory of a trained adapter.")
    if (text is None) == (file is None):
        raise CliError(
            "Nothing to predict." if text is None else "Both --text and --file are given.",
            "Give --text '...' (repeatable) or --file ROWS.",
            exit_code=USAGE,
        )

    from sgg_core.adapter import load_predictor
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    read = [] if file is None else _rows(file)
    predictor = load_predictor(directory, catalogue=Catalogue.load(StoreSettings().data_dir))
    rows = [row.fields for row in read] if text is None else _texts(text, predictor.manifest.kind)
    lines = [row.line for row in read] if text is None else None
    predictions = predictor.predict(rows, "the texts" if file is None else file.name, lines)
    if as_json or file is not None:
        for row, prediction in zip(rows, predictions, strict=True):
            print_json_line(row | prediction)
    else:
        _print(rows, list(predictions))


def _texts(texts: list[str], kind: str) -> list[dict[str, Any]]:
    """Return the texts as rows of the adapter's kind."""
    if kind == "chat":
        return [{"messages": [{"role": "user", "content": text}]} for text in texts]
    field = "text" if kind == "classification" else "prompt"
    return [{field: text} for text in texts]


def _rows(path: Path) -> list[Row]:
    from sgg_core.errors import DataError
    from sgg_core.parsing import ProblemLog, read_rows

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise CliError(f"Cannot read {path}: {error.strerror}.", "Give the path of a readable file.") from error
    log = ProblemLog()
    rows = list(read_rows(content, path.name, log))
    if log.problems:
        raise DataError(path.name, tuple(log.problems))
    return rows


def _print(rows: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> None:
    if predictions and "label" in predictions[0]:
        print_table(
            ("LABEL", "PROBABILITY", "TEXT"),
            [
                (found["label"], f"{found['probabilities'][found['label']]:.3f}", row["text"])
                for row, found in zip(rows, predictions, strict=True)
            ],
            empty="There are no rows.",
        )
        return
    print_table(("COMPLETION",), [(found["completion"],) for found in predictions], empty="There are no rows.")
