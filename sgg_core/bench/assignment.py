"""What a method is given, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sgg_core.backbone import LoadedBase
from sgg_core.bench.cells import DESCRIPTIONS, Cell, Texts
from sgg_core.errors import SggError
from sgg_core.examples import ExampleSet, parse_examples
from sgg_core.spec import TrainingSpec


class NotApplicableError(SggError):
    """A method has nothing to work on here, such as biases in a base model without any."""


@dataclass(frozen=True)
class Assignment:
    """One cell with its data. `rate` is the peak learning rate where the cell names one."""

    cell: Cell
    base: LoadedBase
    training: ExampleSet
    test: Texts
    held_out: ExampleSet | None
    source: ExampleSet | None
    rate: float | None

    def spec(self, **groups: Any) -> TrainingSpec:
        """The product's defaults for this cell, with some groups' fields replaced."""
        fields: dict[str, Any] = {"base_model": self.base.entry.name, "seed": self.cell.seed}
        fields["task"] = {"description": DESCRIPTIONS.get(self.cell.task)} | groups.pop("task", {})
        if self.rate is not None:
            groups["optimization"] = {"learning_rate": self.rate} | groups.get("optimization", {})
        return TrainingSpec.model_validate(fields | groups)


@dataclass(frozen=True)
class Outcome:
    """(N, L) scores of the test texts, whose largest is the answer, and figures for the cell's row."""

    scores: Tensor
    figures: dict[str, Any] = field(default_factory=dict)


Method = Callable[[Assignment], Outcome]


def examples(rows: Sequence[dict[str, str]], filename: str) -> ExampleSet:
    """Rows as a parsed file."""
    return parse_examples("\n".join(map(json.dumps, rows)).encode(), filename)
