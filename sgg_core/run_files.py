"""The data files that a run reads."""

from __future__ import annotations

from dataclasses import dataclass

from sgg_core.examples import ExampleSet


@dataclass(frozen=True)
class RunFiles:
    """A run's examples, by their roles. `validation_seen` counts those of validation that training shows, too."""

    training: ExampleSet
    validation: ExampleSet | None = None
    sources: tuple[ExampleSet, ...] = ()
    retention: ExampleSet | None = None
    validation_seen: int = 0
