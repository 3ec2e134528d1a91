"""Runs an accuracy benchmark: cells in parallel processes, one line of the CSV for each that is done."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.bench import peers, setfit_method, trained
from sgg_core.bench.assignment import Assignment, Method, NotApplicableError, Outcome, examples
from sgg_core.bench.cells import Cell, Folder, Row, Texts, append_row, majority_share, read_rows, write_rows
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import SpecError
from sgg_core.examples import ExampleSet
from sgg_core.figures import classification_figures
from sgg_core.pipe import die_with_parent

METHODS: dict[str, Method] = {**peers.METHODS, **trained.METHODS, "setfit": setfit_method.setfit}
PAIR_METHODS: dict[str, Method] = {**trained.PAIR_METHODS, **peers.PAIR_METHODS}
HELD_OUT_ITEMS = 256
ALIGNED = {*trained.METHODS, *trained.PAIR_METHODS}  # the product's own methods, which can look at gradients
NEW = "not measured yet"


@dataclass(frozen=True)
class Bench:
    """What all cells share. `folders` are tasks by name, `entries` base models; `alignment` adds held-out gradients."""

    folders: dict[str, Path]
    entries: dict[str, BaseModelEntry]
    test_items: int
    alignment: bool
    threads: int


Told = Callable[[Row, int, int, float], None]  # a row, cells done, cells in all, seconds left


def run(
    bench: Bench, cells: Sequence[Cell], csv: Path, workers: int, tell: Told, announce: Callable[[str], None]
) -> None:
    """Measure the cells that `csv` does not hold yet, or not as asked for, and add a row for each as it is done.

    A sentence says why cells are measured again. Their old rows stay until there are new ones.
    """
    for cell in cells:
        method_of(cell)
    rows = read_rows(csv)
    write_rows(csv, rows)  # without a line that a killed run left half
    held = {row.cell: row for row in rows}
    items = {task: len(Folder(bench.folders[task]).test(bench.test_items)) for task in {cell.task for cell in cells}}
    reasons = {cell: _reason(held.get(cell), items[cell.task], bench.alignment) for cell in dict.fromkeys(cells)}
    left = [cell for cell, reason in reasons.items() if reason is not None]
    again = Counter(reason for reason in reasons.values() if reason not in (None, NEW))
    if again:
        told = ", ".join(f"{count} {reason}" for reason, count in again.items())
        announce(f"Measured again, of the cells in {csv}: {told}.")
    begun = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (bench.threads, os.getpid())) as pool:
        futures: list[Future[Row]] = [pool.submit(measure, bench, cell) for cell in left]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                row = future.result()
                append_row(csv, row)
                seconds_left = (time.perf_counter() - begun) / number * (len(left) - number)
                tell(row, number, len(left), seconds_left)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if again:
                write_rows(csv, read_rows(csv))  # without the rows that were replaced


def _reason(row: Row | None, test_items: int, alignment: bool) -> str | None:
    """Why a cell with this row is to be measured; None where there is nothing left to measure."""
    if row is None:
        return NEW
    if row.accuracy is None:
        return "that could not be run"
    if row.test_items < test_items:
        return "with fewer test items"
    missing = alignment and row.directional_alignment is None and row.method.partition("@")[0] in ALIGNED
    return "without alignment" if missing else None


def method_of(cell: Cell) -> tuple[Method, float | None]:
    """The method of a cell and the learning rate that its name carries. Raises SpecError for an unknown one."""
    name, at, rate = cell.method.partition("@")
    known = PAIR_METHODS if cell.source else METHODS
    try:
        return known[name], float(rate) if at else None
    except (KeyError, ValueError) as error:
        kind = "with a source" if cell.source else "without a source"
        raise SpecError(f"There is no method {cell.method!r} {kind}.", f"Known: {', '.join(known)}.") from error


def measure(bench: Bench, cell: Cell) -> Row:
    """Train and test one cell."""
    folder = Folder(bench.folders[cell.task])
    support, test = folder.support(cell.shots, cell.seed), folder.test(bench.test_items)
    held_out = folder.held_out(HELD_OUT_ITEMS, support) if bench.alignment else []
    method, rate = method_of(cell)
    try:
        given = Assignment(
            cell=cell,
            base=_base(bench.entries[cell.base_model]),
            training=examples(support, "train.jsonl"),
            test=test,
            held_out=examples(held_out, "held-out.jsonl") if held_out else None,
            source=_source(Folder(bench.folders[cell.source]), cell, folder, support + held_out)
            if cell.source
            else None,
            rate=rate,
        )
        outcome = method(given)
    except NotApplicableError as error:
        return Row.model_validate(asdict(cell) | {"test_items": len(test), "note": error.message})
    return _row(given, outcome)


def _source(folder: Folder, cell: Cell, target: Folder, shown: Texts) -> ExampleSet:
    """Source rows without the texts that the target's run is shown, and without any that it could be tested with."""
    rows = folder.as_source(cell.seed, shown + target.test(sys.maxsize))
    if not rows:
        raise NotApplicableError(f"{cell.task} holds all texts of {folder.name}")
    return examples(rows, "source.jsonl")


def _row(given: Assignment, outcome: Outcome) -> Row:
    labels = list(given.training.labels)
    figures = classification_figures(
        [labels.index(row["label"]) for row in given.test], outcome.scores.argmax(-1).tolist(), labels
    )
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in outcome.figures.items()}
    measured = {
        "test_items": len(given.test),
        "accuracy": round(figures.accuracy, 4),
        "macro_f1": round(figures.macro_f1 or 0.0, 4),
        "majority": round(majority_share(given.test), 4),
    }
    return Row.model_validate(asdict(given.cell) | measured | rounded)


def _prepare(threads: int, parent: int) -> None:
    die_with_parent(parent)  # a cell that nobody writes down any more
    torch.set_num_threads(threads)


@cache
def _base(entry: BaseModelEntry) -> LoadedBase:
    """One base model a process, loaded once."""
    return load_base(entry)
