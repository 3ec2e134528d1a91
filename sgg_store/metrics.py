"""A job's metrics: the trainer's messages of steps and evaluations, and the job's progress."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from sgg_core.reporting import EvaluationMetrics, StepMetrics, message_adapter
from sgg_store.attempts import Lease, guard
from sgg_store.records import JobRecord, MetricRecord

AnyMetrics = StepMetrics | EvaluationMetrics


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

    def since(self, job_id: str, step: int = 0) -> list[AnyMetrics]:
        """All figures of the steps after `step`, in order; at one step the training figures come first."""
        rows = self.session.scalars(
            select(MetricRecord)
            .where(MetricRecord.job_id == job_id, MetricRecord.step > step)
            .order_by(MetricRecord.step, MetricRecord.type.desc())
        )
        messages = (message_adapter.validate_python(row.figures) for row in rows)
        return [message for message in messages if isinstance(message, StepMetrics | EvaluationMetrics)]

    def newest(self, job_id: str) -> dict[str, AnyMetrics]:
        """The last message of each type, by type: what a progress bar shows."""
        found: dict[str, AnyMetrics] = {}
        for type_ in ("step", "evaluation"):
            row = self.session.scalars(
                select(MetricRecord)
                .where(MetricRecord.job_id == job_id, MetricRecord.type == type_)
                .order_by(MetricRecord.step.desc())
                .limit(1)
            ).one_or_none()
            message = None if row is None else message_adapter.validate_python(row.figures)
            if isinstance(message, StepMetrics | EvaluationMetrics):
                found[type_] = message
        return found
