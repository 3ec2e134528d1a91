"""Jobs side by side, in answers."""

from __future__ import annotations

from typing import Any, Literal

from api.schemas import Identified, Out


class ComparedJobOut(Identified):
    """One of the jobs."""

    name: str | None
    """Of its fine-tuned model; null where it has none."""
    model: str
    """The base model."""
    metadata: dict[str, str]
    suffix: str | None
    status: str
    valid_accuracy: float | None
    valid_loss: float | None
    """Of the weights that it kept; null without a validation file, or before its end."""


class DifferenceOut(Out):
    """A choice that is not the same in all jobs."""

    field: str
    values: dict[str, Any]
    """By the job's id."""


class PairOut(Out):
    """Two jobs on the same validation examples; the numbers are null where they cannot be paired."""

    a: str
    b: str
    metric: Literal["accuracy", "loss"] = "accuracy"
    """For completions and chats the loss per token, of which less is better."""
    difference: float | None = None
    """That of `a` less that of `b`."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval."""
    items: int = 0
    verdict: str
    """In words; also why there is no difference to tell."""


class ComparisonOut(Out):
    """Choices, curves and answers of several jobs."""

    object: Literal["fine_tuning.comparison"] = "fine_tuning.comparison"
    jobs: list[ComparedJobOut]
    spec_differences: list[DifferenceOut]
    curves: dict[str, dict[str, list[tuple[int, float]]]]
    """Figure, then job, then its points: step and value."""
    paired: list[PairOut]
    """Every two of the jobs."""
