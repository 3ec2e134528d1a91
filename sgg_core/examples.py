"""Few-shot examples as files: reading one, and whether files fit together. Loads no torch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgg_core.errors import DataError, Problem, RetentionFileError, SourceFileError, ValidationFileError
from sgg_core.parsing import ENDINGS, MAX_PROBLEMS, ProblemLog, excerpt, read_rows
from sgg_core.shapes import (
    ACCEPTED,
    ClassificationExample,
    Example,
    Kind,
    Limits,
    build_example,
    check_names,
)
from sgg_core.suspicions import suspicions

DEFAULT_LIMITS = Limits()
UNCLEAR = Problem(
    None,
    None,
    "The ending of the file's name does not say which format it has.",
    f"Use one of {', '.join(ENDINGS)}: without it, a file that begins with {{ is read as JSONL, any other as CSV.",
)
STORED_LIMITS = Limits(max_bytes=sys.maxsize)
"""Of a file that a server has taken, by a limit of its own."""


@dataclass(frozen=True)
class ExampleSet:
    """The examples of one file, all of one kind, in the file's order. `lines[i]` is where `examples[i]` starts.

    `refusal` is what is raised where a task cannot use the examples: its class tells which file of a job is meant.
    """

    filename: str
    kind: Kind
    examples: tuple[Example, ...]
    lines: tuple[int, ...]
    warnings: tuple[Problem, ...]
    sha256: str  # of the file's bytes, as hex
    refusal: type[DataError] = DataError

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def classification(self) -> tuple[ClassificationExample, ...]:
        """The examples of a classification file; empty for other kinds."""
        return tuple(example for example in self.examples if isinstance(example, ClassificationExample))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many examples there are, and with how many labels."""
        return len(self), len(self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, sorted; empty unless the kind is classification."""
        return tuple(sorted({example.label for example in self.classification}))


def parse_examples(
    content: bytes, filename: str, limits: Limits = DEFAULT_LIMITS, refusal: type[DataError] = DataError
) -> ExampleSet:
    """Read the bytes of a JSONL or CSV file. `filename` tells the format and appears in messages, no file is opened.

    Raises `refusal` with all problems of the file at once. What is only suspicious becomes a warning of the set.
    """
    if len(content) > limits.max_bytes:
        reason = f"The file has {len(content):,} bytes; the limit is {limits.max_bytes:,}."
        raise refusal(filename, (Problem(None, None, reason, "Leave examples out; a few per label are enough."),))
    log = ProblemLog()
    kind, examples, lines = _collect(content, filename, limits, log)
    if not log.problems and kind is None:
        log.add(None, None, "The file holds no examples.", f"Write one example per line, with {ACCEPTED}.")
    if log.problems or kind is None:
        unclear = (UNCLEAR,) if log.guessed and kind is None else ()
        raise refusal(filename, (*unclear, *log.problems)[:MAX_PROBLEMS])
    digest = hashlib.sha256(content).hexdigest()
    return ExampleSet(filename, kind, tuple(examples), tuple(lines), suspicions(examples, lines), digest, refusal)


def read_examples(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> ExampleSet:
    """Read a data file from disk. Raises DataError, also when the file cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(limits.max_bytes + 1)
    except OSError as error:
        name = path.name or str(path)
        if path.is_dir():
            problem = Problem(None, None, "It is a directory.", "Name a data file, .jsonl or .csv.")
        else:
            reason = f"The file cannot be read: {error.strerror or error}."
            problem = Problem(None, None, reason, f"Check the path {path}.")
        raise DataError(name, (problem,)) from error
    return parse_examples(content, path.name, limits)


def check_training(training: ExampleSet) -> None:
    """Raise DataError if nothing can be learned from this file alone."""
    _check_labels(training, DataError)


def check_validation(training: ExampleSet, validation: ExampleSet) -> None:
    """Raise ValidationFileError if the file is of another kind, or has labels that training never sees."""
    _check_same_kind(training, validation, ValidationFileError)
    first_lines: dict[str, int] = {}
    for example, line in zip(validation.classification, validation.lines, strict=False):
        first_lines.setdefault(example.label, line)
    labels = training.labels
    unknown = [(first_lines[label], label) for label in first_lines.keys() - set(labels)]
    if unknown:
        known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
        raise ValidationFileError(
            validation.filename,
            tuple(
                Problem(
                    line,
                    "label",
                    f"The label {excerpt(label)} does not occur in the training file {training.filename}.",
                    f"Add training examples of it, or use one of its labels: {known}.",
                )
                for line, label in sorted(unknown)[:MAX_PROBLEMS]
            ),
        )


def check_sources(training: ExampleSet, sources: Sequence[ExampleSet]) -> None:
    """Raise SourceFileError if a source file is of another kind than the training file, or has one label only.

    Its labels may be others.
    """
    for source in sources:
        _check_same_kind(training, source, SourceFileError)
        _check_labels(source, SourceFileError)


def check_retention(data: ExampleSet) -> None:
    """Raise RetentionFileError if a retention file has one label only: whatever the model is, it would be right."""
    _check_labels(data, RetentionFileError)


def _check_labels(data: ExampleSet, refusal: type[DataError]) -> None:
    if data.kind == "classification" and len(data.labels) < 2:
        reason = f"All examples have the label {excerpt(data.labels[0])}."
        remedy = "Add examples of at least one other label."
        raise refusal(data.filename, (Problem(None, "label", reason, remedy),))


def _check_same_kind(training: ExampleSet, other: ExampleSet, refusal: type[DataError]) -> None:
    if other.kind != training.kind:
        reason = f"The file holds {other.kind} examples; the training file {training.filename} holds {training.kind}."
        raise refusal(other.filename, (Problem(None, None, reason, "Use files of the same kind."),))


def _collect(
    content: bytes, filename: str, limits: Limits, log: ProblemLog
) -> tuple[Kind | None, list[Example], list[int]]:
    """Turn rows into examples. The first row with proper names decides the kind of the file."""
    kind: Kind | None = None
    examples: list[Example] = []
    lines: list[int] = []
    labels: set[str] = set()
    row_kind: Kind | None = None
    names_line = 0
    for count, row in enumerate(read_rows(content, filename, log), start=1):
        if count > limits.max_rows:
            reason = f"The file has more than {limits.max_rows:,} examples."
            log.add(row.line, None, reason, "Leave examples out; a few per label are enough.")
            break
        if row.names_line != names_line:
            names_line = row.names_line
            row_kind = check_names(names_line, row.fields, log)
            kind = kind or row_kind
        if row_kind is None:
            continue
        if row_kind != kind:
            reason = f"This is a {row_kind} example, but the file began with {kind} examples."
            log.add(row.line, None, reason, "Put each kind into a file of its own.")
            continue
        example = build_example(row, kind, limits, log)
        if example is None:
            continue
        examples.append(example)
        lines.append(row.line)
        if isinstance(example, ClassificationExample):
            labels.add(example.label)
            if len(labels) > limits.max_labels:
                log.add(row.line, "label", f"The file has more than {limits.max_labels:,} labels.", "Merge labels.")
                break
    return kind, examples, lines
