"""The data files that a run reads."""

from __future__ import annotations

from dataclasses import dataclass

from sgg_core.examples import ExampleSet
from sgg_core.spec import Auto


@dataclass(frozen=True)
class RunFiles:
    """A run's examples, by their roles. `validation_seen` counts those of validation that training shows, too.

    `retention_tokens` is how long examples of retention may be, which can be of another kind than those of training.
    """

    training: ExampleSet
    validation: ExampleSet | None = None
    sources: tuple[ExampleSet, ...] = ()
    retention: ExampleSet | None = None
    validation_seen: int = 0
    retention_tokens: int | Auto = "auto"
