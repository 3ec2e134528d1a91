"""Cross-validation's parts of a file: each example is left out of one, and each label stays in all. Loads no torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sgg_core.errors import Problem
from sgg_core.examples import ExampleSet
from sgg_core.parsing import excerpt
from sgg_core.seeding import derived_seed, epoch_order

SHOWN_LABELS = 10


@dataclass(frozen=True)
class Part:
    """What a fold trains on, by the examples' places in the file, and what it leaves out."""

    kept: tuple[int, ...]
    left_out: tuple[int, ...]


def fold_problem(label_counts: Mapping[str, int], examples: int, folds: int) -> Problem | None:
    """Why a file cannot be dealt into so many parts, if it cannot. `label_counts` are empty but for classification."""
    if examples < folds:
        reason = f"{examples} examples cannot be split into {folds} folds."
        return Problem(None, None, reason, "Add examples, or ask for fewer folds.")
    single = sorted(label for label, count in label_counts.items() if count == 1)
    if not single:
        return None
    named = ", ".join(map(excerpt, single[:SHOWN_LABELS])) + (", ..." if len(single) > SHOWN_LABELS else "")
    reason = f"Folds need two examples of each label, but these labels have only one: {named}."
    return Problem(None, "label", reason, "Add examples of these labels, or train without folds.")


def deal(training: ExampleSet, folds: int, seed: int) -> list[Part]:
    """The parts of so many folds, as equal in size and in labels as may be. A function of its arguments.

    Raises DataError where the file has too few examples for them.
    """
    labels = [example.label for example in training.classification] or [""] * len(training)
    counts = Counter(labels) if training.kind == "classification" else {}
    if (problem := fold_problem(counts, len(training), folds)) is not None:
        raise training.refusal(training.filename, (problem,))
    shuffled = epoch_order(len(labels), derived_seed(seed, "folds"), 0)
    order = sorted(shuffled, key=labels.__getitem__)  # two of a label that follow each other are of different folds
    parts = []
    for fold in range(folds):
        left_out = set(order[fold::folds])
        kept = tuple(index for index in range(len(labels)) if index not in left_out)
        parts.append(Part(kept, tuple(sorted(left_out))))
    return parts


def only(training: ExampleSet, places: Sequence[int]) -> ExampleSet:
    """Some of a file's examples, as a set of their own."""
    digest = hashlib.sha256(f"{training.sha256}: {','.join(map(str, places))}".encode()).hexdigest()
    return replace(
        training,
        examples=tuple(training.examples[place] for place in places),
        lines=tuple(training.lines[place] for place in places),
        warnings=(),
        sha256=digest,
    )
