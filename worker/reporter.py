"""From the trainer's messages to metrics and events, in batches, each one transaction under the lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from sqlalchemy.orm import Session

from sgg_core.reporting import AnyMessage, CheckpointSaved, EvaluationMetrics, Notice, Started, StepMetrics
from sgg_core.spec import CheckpointSpec
from sgg_store.attempts import Lease
from sgg_store.checkpoints import Checkpoints
from sgg_store.events import Events, NewEvent
from sgg_store.metrics import Metrics
from sgg_store.records import CheckpointRecord
from worker.checkpoint_transfer import Manifest
from worker.lease_keeper import LeaseKeeper

_Result = TypeVar("_Result")

LARGEST_BATCH = 200
MOST_STEP_EVENTS = 1000  # a longer job tells every n-th step in its events; the metrics always hold all of them


class JobReporter:
    """Collects what one attempt has to say. `told_steps` are the furthest steps that any before it gave figures of."""

    def __init__(self, keeper: LeaseKeeper, lease: Lease, told_steps: Mapping[str, int], flush_seconds: float) -> None:
        self._keeper = keeper
        self._lease = lease
        self._told_steps = told_steps
        self._flush_seconds = flush_seconds
        self._metrics: list[StepMetrics | EvaluationMetrics] = []
        self._events: list[NewEvent] = []
        self._begun: Started | None = None
        self._told = 0  # events that are known to be written
        self._flushed_at = 0.0  # long ago: the first message is written at once
        self._stepped = False  # whether a step's figures have come

    def take(self, message: AnyMessage) -> None:
        """Take one message, and write what has been collected if it is time.

        The beginning and the first step's figures are written at once: people wait for them.
        """
        urgent = isinstance(message, Started) or (isinstance(message, StepMetrics) and not self._stepped)
        self._stepped |= isinstance(message, StepMetrics)
        if isinstance(message, StepMetrics | EvaluationMetrics):
            self._metrics.append(message)
            if message.step > self._told_steps.get(message.type, 0):
                self._events += _metrics_events(message)
        elif isinstance(message, Started):
            self._begun = message
            self._events.append(_started_event(message))
        elif isinstance(message, Notice):
            self._events.append(NewEvent(message.message, level=message.level))
        self.flush() if urgent else self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write what has been collected for long enough, or has become much."""
        if len(self._metrics) >= LARGEST_BATCH or time.monotonic() - self._flushed_at >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write all that was collected. Raises LeaseLostError, and FencedError if the database stays away."""
        if self._metrics or self._events:
            self._write(lambda session: None)

    def checkpoint(
        self, saved: CheckpointSaved, prefix: str, manifest: Manifest, keep: CheckpointSpec, most: int
    ) -> list[CheckpointRecord]:
        """Record an uploaded checkpoint together with the figures before it, so that none is ahead of its metrics.

        At most `most` stay. Gives the checkpoints that were dropped for it; their objects are for the caller.
        """
        message = f"Checkpoint saved after step {saved.step}."
        if saved.compared:
            message = f"The checkpoint of step {saved.step} now also holds the progress of plain LoRA."
        self._events.append(NewEvent(message, data={"step": saved.step}))

        def record(session: Session) -> list[CheckpointRecord]:
            Checkpoints(session).append(self._lease, saved.step, prefix, manifest, saved.metrics)
            return Checkpoints(session).prune(self._lease, keep.keep_last, keep.keep_best, most)

        return self._write(record)

    def _write(self, change: Callable[[Session], _Result]) -> _Result:
        """Make a change together with what was collected: once, also where the answer to a commit is lost."""

        def write(session: Session) -> _Result:
            Metrics(session).append(self._lease, self._metrics)
            Events(session).append(self._lease, self._events, self._told)
            if self._begun is not None:
                Metrics(session).begin(self._lease, self._begun)
            return change(session)

        result = self._keeper.write(write)
        self._told += len(self._events)
        self._metrics, self._events, self._begun = [], [], None
        self._flushed_at = time.monotonic()
        return result


def _started_event(message: Started) -> NewEvent:
    rates = ", ".join(f"{rate:.2g}" for rate in message.learning_rates)
    text = (
        f"Steps {message.first_step} to {message.total_steps} with batch size {message.batch_size}, "
        f"learning rate{'s' if len(message.learning_rates) > 1 else ''} {rates} "
        f"and {message.trainable_parameters:,} trainable parameters."
    )
    return NewEvent(text, data=message.model_dump(mode="json", exclude={"type"}))


def _metrics_events(message: StepMetrics | EvaluationMetrics) -> list[NewEvent]:
    if isinstance(message, EvaluationMetrics):
        text = f"Validation after step {message.step}: loss={message.valid_loss:.4f}"
        if message.valid_accuracy is not None:
            text += f", accuracy={message.valid_accuracy:.3f}"
    else:
        every = -(-message.total_steps // MOST_STEP_EVENTS)
        if message.step % every and message.step != message.total_steps:
            return []
        text = f"Step {message.step}/{message.total_steps}: training loss={message.train_loss:.4f}"
    return [NewEvent(text, type="metrics", data=message.model_dump(mode="json", exclude={"type"}, exclude_none=True))]
