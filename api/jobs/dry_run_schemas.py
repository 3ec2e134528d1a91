"""The answer to a dry run: what is wrong or suspicious, what would be done, and what it would cost."""

from __future__ import annotations

from typing import Any, Literal

from api.schemas import Out


class FindingOut(Out):
    """One thing that is wrong (`error`: the job would be refused, or would fail) or suspicious (`warning`)."""

    severity: Literal["error", "warning"]
    code: str
    param: str | None
    """The request's parameter that it is about."""
    file_id: str | None
    line: int | None
    field: str | None
    reason: str
    remedy: str


class DataOut(Out):
    """The training file. Tokens are those of all examples once, with all that is written around them."""

    examples: int
    labels: dict[str, int]
    """How many examples each label has; empty unless the kind is classification."""
    tokens: int | None
    truncated: int | None
    """How many texts are cut to fit. Null, like `tokens`, where they could not be counted."""


class RangeOut(Out):
    """Seconds: in one of ten cases it is less than `low`, in one of ten more than `high`."""

    low: float
    expected: float
    high: float


class EstimateOut(Out):
    """What the training would take. Null where it is not known."""

    steps: int
    """Of all replicas together: each learning rate with each seed."""
    epochs: int
    tokens: int | None
    """In all steps together, as the job's `trained_tokens`."""
    peak_memory_bytes: int | None
    """Of the process that trains, the base model included, with all replicas at once; where that is more than it may
    take, fewer are trained at once."""
    seconds: RangeOut | None
    """From start to end; waiting is in `queue`."""


class QueueOut(Out):
    """The place that the job would have now, and when it would begin."""

    position: int
    starts_in_seconds: RangeOut | None
    """Null while a job ahead is of a kind that was never seen to its end."""


class DryRunOut(Out):
    """What would become of a request for a job. Nothing of it is kept."""

    object: Literal["fine_tuning.job.dry_run"] = "fine_tuning.job.dry_run"
    valid: bool
    """Whether there are no errors."""
    findings: list[FindingOut]
    """Errors first."""
    hyperparameters: dict[str, Any] | None
    """As the job would be trained, every `auto` resolved. Null, like `data` and `estimate`, if errors forbid it."""
    data: DataOut | None
    estimate: EstimateOut | None
    queue: QueueOut
    smallest_difference: float | None
    """In accuracy, 0 to 1: the smallest one that can be shown with this validation file. Null without labels."""
