"""A job's metrics: the trainer's messages of steps and evaluations, and the job's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Float, and_, cast, delete, func, or_, select, update
from sqlalchemy.orm import Session

from sgg_core.reporting import EvaluationMetrics, Started, StepMetrics, message_adapter
from sgg_store.attempts import Lease, guard
from sgg_store.records import JobRecord, MetricRecord

AnyMetrics = StepMetrics | EvaluationMetrics

_KEYS = ("type", "step", "total_steps", "examples")
_SOURCES: dict[str, str] = {
    name: kind.model_fields["type"].default
    for kind in (StepMetrics, EvaluationMetrics)
    for name, field in kind.model_fields.items()
    if name not in _KEYS and field.annotation is not bool
}
FIGURES: tuple[str, ...] = tuple(_SOURCES)
"""Names of the figures that `Metrics.curves` can give."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which steps to look at (both included; None is the newest), and at how many points at most."""

    from_step: int = 0
    to_step: int | None = None
    resolution: int = 500


@dataclass(frozen=True, slots=True)
class Point:
    """A figure over some consecutive steps, the last of which is `step`."""

    step: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curves:
    """Points of figures by name; each point stands for `steps_per_point` steps."""

    from_step: int
    to_step: int
    steps_per_point: int
    points: dict[str, list[Point]]


class Metrics:
    """The figures of jobs; at most one message of each type for each step."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def append(self, lease: Lease, messages: Sequence[AnyMetrics]) -> None:
        """Record a batch of messages and move the job's progress on to the newest step. Raises LeaseLostError.

        What an earlier attempt said of the same steps is replaced.
        """
        attempt = guard(self.session, lease)
        newest = {(message.step, message.type): message for message in messages}
        if not newest:
            return
        self.session.execute(
            delete(MetricRecord).where(
                MetricRecord.job_id == lease.job_id,
                or_(*(and_(MetricRecord.step == step, MetricRecord.type == type_) for step, type_ in newest)),
            )
        )
        self.session.add_all(
            MetricRecord(
                job_id=lease.job_id,
                step=step,
                type=type_,
                attempt=lease.attempt,
                figures=message.model_dump(mode="json"),
            )
            for (step, type_), message in newest.items()
        )
        steps = [message for message in messages if isinstance(message, StepMetrics)]
        if steps:
            last = max(steps, key=lambda message: message.step)
            attempt.last_step = last.step
            self.session.execute(
                update(JobRecord)
                .where(JobRecord.id == lease.job_id)
                .values(step=last.step, total_steps=last.total_steps)
                .execution_options(synchronize_session=False)
            )

    def begin(self, lease: Lease, started: Started) -> None:
        """Record what became of the job's `auto`. Raises LeaseLostError."""
        guard(self.session, lease)
        self.session.execute(
            update(JobRecord)
            .where(JobRecord.id == lease.job_id)
            .values(epochs=started.epochs, batch_size=started.batch_size)
            .execution_options(synchronize_session=False)
        )

    def since(self, job_id: str, step: int = 0) -> list[AnyMetrics]:
        """All figures of the steps after `step`, in order; at one step the training figures come first."""
        rows = self.session.scalars(
            select(MetricRecord)
            .where(MetricRecord.job_id == job_id, MetricRecord.step > step)
            .order_by(MetricRecord.step, MetricRecord.type.desc())
        )
        messages = (message_adapter.validate_python(row.figures) for row in rows)
        return [message for message in messages if isinstance(message, StepMetrics | EvaluationMetrics)]

    def told_steps(self, job_id: str) -> dict[str, int]:
        """The furthest step that messages of each type were of, in whichever attempt that was."""
        furthest = select(MetricRecord.type, func.max(MetricRecord.step)).where(MetricRecord.job_id == job_id)
        return dict(self.session.execute(furthest.group_by(MetricRecord.type)).all())

    def curves(self, job_id: str, names: Sequence[str], window: Window) -> Curves:
        """The figures `names` (of FIGURES) within a window, averaged by the database into few enough points.

        A figure that a step does not have (an evaluation, a cosine) counts for nothing there.
        """
        first, last = self._span(job_id, window)
        width = max(1, -(-(last - first + 1) // window.resolution))
        points: dict[str, list[Point]] = {name: [] for name in names}
        for type_ in ("step", "evaluation"):
            wanted = [name for name in names if _SOURCES[name] == type_]
            if wanted:
                self._fill(points, wanted, job_id, type_, (first, last, width))
        return Curves(first, last, width, points)

    def _span(self, job_id: str, window: Window) -> tuple[int, int]:
        """The first and last step of the window that have figures; the second is below the first if none have."""
        within = [MetricRecord.job_id == job_id, MetricRecord.step >= window.from_step]
        if window.to_step is not None:
            within.append(MetricRecord.step <= window.to_step)
        first, last = self.session.execute(
            select(func.min(MetricRecord.step), func.max(MetricRecord.step)).where(*within)
        ).one()
        return (window.from_step, window.from_step - 1) if first is None else (first, last)

    def _fill(
        self,
        points: dict[str, list[Point]],
        names: Sequence[str],
        job_id: str,
        type_: str,
        steps: tuple[int, int, int],
    ) -> None:
        first, last, width = steps
        columns: list[Any] = []
        for name in names:
            figure = cast(MetricRecord.figures[name].as_string(), Float)
            columns += [func.avg(figure), func.min(figure), func.max(figure)]
        number = (MetricRecord.step - first) // width
        rows = self.session.execute(
            select(func.max(MetricRecord.step), *columns)
            .where(MetricRecord.job_id == job_id, MetricRecord.type == type_, MetricRecord.step.between(first, last))
            .group_by(number)
            .order_by(number)
        )
        for step, *figures in rows:
            for index, name in enumerate(names):
                mean, low, high = figures[3 * index : 3 * index + 3]
                if mean is not None:
                    points[name].append(Point(step, mean, low, high))
