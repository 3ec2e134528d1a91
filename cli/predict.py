"""`sgg predict`: what a trained adapter says about new texts."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CliError
from cli.output import JsonFlag, print_json_line, print_table

USAGE = 2


def predict(
    directory: Annotated[Path, typer.Argument(help="Directory of a trained adapter.")],
    text: Annotated[list[str] | None, typer.Option(help="A text to classify, or a prompt. Repeatable.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Rows in .jsonl or .csv with the fields of the training file; - reads JSONL.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict with a trained adapter: labels with probabilities, or completions."""
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

    predictor = load_predictor(directory, catalogue=Catalogue.load(StoreSettings().data_dir))
    rows = _texts(text or [], predictor.manifest.kind) if file is None else _rows(file)
    predictions = predictor.predict(rows)
    if as_json:
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


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"Cannot read {path}: {error}.", "Give a readable UTF-8 file.") from error
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(content)))
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CliError(f"{path}, line {number} is not JSON: {error.msg}.", "Write one object a line.") from error
        if not isinstance(row, dict):
            raise CliError(f"{path}, line {number} is not a JSON object.", 'Write one object a line: {"text": "..."}.')
        rows.append(row)
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
