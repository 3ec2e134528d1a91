"""From the trainer's output to result files: the metrics as CSV, the adapter as a bundle that never varies."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgg_core.files import sha256_of
from sgg_core.report import ANSWERS, CARD, EXAMPLES, PAGE, REPORT
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store import ids
from sgg_store.attempts import Lease
from sgg_store.objects import ObjectStore, report_key, result_key

COLUMNS = (
    *("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"),  # OpenAI's
    *("valid_macro_f1", "epoch", "learning_rate", "gradient_norm", "reference_cosine", "clipped"),
    *("source_cosine", "source_weight", "projected_gradient_norm", "projected_reference_cosine"),
    *("projected_source_cosine", "tokens", "seconds", "replica"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A result in the object store that no row points to yet."""

    file_id: str
    filename: str
    bytes: int
    sha256: str
    object_key: str


def publish(
    objects: ObjectStore,
    lease: Lease,
    metrics: Iterable[StepMetrics | EvaluationMetrics],
    output: Path,
    workspace: Path,
) -> tuple[ResultFile, ...]:
    """Store the metrics' CSV and the bundle of `output`, in this order, and the report beside them.

    `workspace` is for temporary files.

    Raises StorageFullError, OSError where the workspace's disk is full.
    """
    table = workspace / "metrics.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        write_metrics(metrics, stream)
    bundle = workspace / "adapter.tar.gz"
    write_bundle(output, bundle)
    for path in (output / name for name in (REPORT, CARD, PAGE, ANSWERS, EXAMPLES)):
        if path.exists():  # answers and examples are there for some kinds of jobs only
            objects.put(report_key(lease, path.name), path)
    return tuple(_store(objects, lease, path) for path in (table, bundle))


def write_bundle(directory: Path, target: Path) -> None:
    """Pack the files of a directory as .tar.gz, with bytes that depend on their names and contents alone."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(directory.rglob("*")):
            if not path.is_file():
                continue
            member = tarfile.TarInfo(path.relative_to(directory).as_posix())
            member.size = path.stat().st_size
            member.mode = 0o644
            with path.open("rb") as stream:
                archive.addfile(member, stream)


def write_metrics(metrics: Iterable[StepMetrics | EvaluationMetrics], stream: io.TextIOBase) -> None:
    """Write one CSV row for each step; figures that a step does not have stay empty."""
    rows: dict[int, dict[str, Any]] = {}
    for message in metrics:
        rows.setdefault(message.step, {"step": message.step}).update(_cells(message))
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))


def _cells(message: StepMetrics | EvaluationMetrics) -> dict[str, Any]:
    figures = message.model_dump(exclude_none=True)
    if isinstance(message, EvaluationMetrics) and message.valid_accuracy is not None:
        figures["valid_mean_token_accuracy"] = message.valid_accuracy
    if isinstance(message, StepMetrics):
        figures["clipped"] = int(message.clipped)
    return {column: figures[column] for column in COLUMNS if column in figures}


def _store(objects: ObjectStore, lease: Lease, path: Path) -> ResultFile:
    key = result_key(lease, path.name)
    objects.put(key, path)
    return ResultFile(
        file_id=ids.new_id("file-"),
        filename=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        object_key=key,
    )
