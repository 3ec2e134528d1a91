"""What an accuracy benchmark consists of: cells, the data each sees, and the CSV of those done. No torch."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sgg_core.errors import SpecError

DESCRIPTIONS = {
    "sst2": "Is the movie review positive or negative?",
    "mr": "Is the movie review positive or negative?",
    "sst5": "How good does the movie review say the movie is?",
    "agnews": "What is the news article about?",
    "trec": "What does the question ask for?",
    "clinc150": "What does the user want?",
}
SOURCE_EXAMPLES = 500


@dataclass(frozen=True)
class Cell:
    """One training and its test. `method` may end in @RATE, its peak learning rate; `source` is empty without one."""

    task: str
    source: str
    base_model: str
    method: str
    shots: int
    seed: int


class Row(BaseModel):
    """A finished cell: a line of the CSV. What a method has not stays empty; `note` says why a cell has nothing."""

    task: str
    source: str = ""
    base_model: str
    method: str
    shots: int
    seed: int
    test_items: int
    accuracy: float | None = None
    macro_f1: float | None = None
    majority: float | None = None
    steps: int | None = None
    train_seconds: float | None = None
    train_loss: float | None = None
    log_norm_change_std: float | None = None
    abnormal_share: float | None = None
    reference_cosine: float | None = None
    path_efficiency: float | None = None
    directional_alignment: float | None = None
    """Cosine of the support set's gradient with that of held-out examples, of the loss that the run is trained on."""
    answer_alignment: float | None = None
    """The same of cross-entropy, whatever it is trained on."""
    source_cosine: float | None = None
    source_weight: float | None = None
    note: str = ""

    @property
    def cell(self) -> Cell:
        """Which cell this is."""
        return Cell(self.task, self.source, self.base_model, self.method, self.shots, self.seed)


Texts = list[dict[str, str]]


@dataclass(frozen=True)
class Folder:
    """A task on disk: train.jsonl and test.jsonl with {"text", "label"} a line, and "text_pair" for pairs."""

    path: Path

    @property
    def name(self) -> str:
        """The task's name."""
        return self.path.name

    def support(self, shots: int, seed: int) -> Texts:
        """`shots` training rows of each label, the same for every method. Raises SpecError where there are too few."""
        by_label: dict[str, Texts] = defaultdict(list)
        for row in _rows(self.path / "train.jsonl"):
            by_label[row["label"]].append(row)
        short = [label for label, rows in by_label.items() if len(rows) < shots]
        if short:
            raise SpecError(f"{self.path} has fewer than {shots} examples of {short[0]!r}.", "Ask for fewer shots.")
        generator = random.Random(f"{self.name}-{shots}-{seed}")
        return [row for label in sorted(by_label) for row in generator.sample(by_label[label], shots)]

    def test(self, items: int) -> Texts:
        """A fixed random subset of the test rows."""
        rows = _rows(self.path / "test.jsonl")
        return random.Random(f"{self.name}-test").sample(rows, min(items, len(rows)))

    def held_out(self, items: int, support: Texts) -> Texts:
        """Training rows that are not in the support set, for gradients that nothing was fitted to."""
        used = {row["text"] for row in support}
        rows = [row for row in _rows(self.path / "train.jsonl") if row["text"] not in used]
        return random.Random(f"{self.name}-held-out").sample(rows, min(items, len(rows)))

    def as_source(self, seed: int, apart: Texts) -> Texts:
        """Training rows as the labelled source of another task, without what stands in `apart`.

        Public sets share sentences, so that a source could tell a target's answers. There may be nothing left.
        """
        known = {_bare(row) for row in apart}
        rows = [row for row in _rows(self.path / "train.jsonl") if _bare(row) not in known]
        return random.Random(f"{self.name}-source-{seed}").sample(rows, min(SOURCE_EXAMPLES, len(rows)))


def majority_share(rows: Texts) -> float:
    """Accuracy of always answering the most frequent label."""
    return max(Counter(row["label"] for row in rows).values()) / len(rows)


def _bare(row: dict[str, str]) -> str:
    """A row's text by its letters and digits alone: sets of the same sentences differ in case, blanks and punctuation.

    Texts without any are compared as they are.
    """
    whole = row["text"] + row.get("text_pair", "")
    return "".join(filter(str.isalnum, whole.casefold())) or whole


def _rows(path: Path) -> Texts:
    try:
        # At LF only, as the product reads files: U+2028 is legal inside JSON strings.
        lines = enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        return [_row(line, json.loads(text)) for line, text in lines if text.strip()]
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{path} cannot be read: {error}.", "A task is a folder with train.jsonl and test.jsonl of text and label."
        ) from error


def _row(line: int, row: Any) -> dict[str, str]:
    """A row with its label as training has it: without surrounding blanks, whole numbers as text."""
    label = row.get("label") if isinstance(row, dict) else None
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str) or not isinstance(row.get("text"), str):
        raise ValueError(f"line {line} has no text or no label")
    return {**row, "label": label.strip()}


def grid(
    tasks: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    base_models: Sequence[str],
    methods: Sequence[str],
    pair_methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """All cells, seed by seed, so that a run that is cut short has whole pairs of methods to compare."""
    for seed in seeds:
        for base_model in base_models:
            for count in shots:
                for task in tasks:
                    yield from (Cell(task, "", base_model, method, count, seed) for method in methods)
                for task, source in pairs:
                    yield from (Cell(task, source, base_model, method, count, seed) for method in pair_methods)


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV, one for each cell; none where there is no file yet. A last line that was cut off is left out.

    A cell that was measured again has its later row, unless that says only why there is nothing.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(stream)]
    needed = {name for name, field in Row.model_fields.items() if field.is_required()}
    whole = [Row.model_validate(row) for row in found if needed <= set(row) and ("accuracy" in row or "note" in row)]
    by_cell: dict[Cell, Row] = {}
    for row in whole:
        earlier = by_cell.get(row.cell)
        if earlier is None or earlier.accuracy is None or row.accuracy is not None:
            by_cell[row.cell] = row
    return list(by_cell.values())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV anew, in one step."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Row.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.model_dump() for row in rows)
    beside.replace(path)


def append_row(path: Path, row: Row) -> None:
    """Add a finished cell and see it on the disk."""
    with path.open("a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, list(Row.model_fields), lineterminator="\n").writerow(row.model_dump())
        stream.flush()
