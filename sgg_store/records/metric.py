"""Metrics: the figures of each step and each evaluation."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class MetricRecord(Record):
    """One message of the trainer. A resumed attempt that repeats a step replaces what the lost one said of it."""

    __tablename__ = "metrics"
    __table_args__ = (Index(None, "job_id", "type", "step"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(primary_key=True)  # step, evaluation
    attempt: Mapped[int]
    figures: Mapped[dict[str, Any]]  # a StepMetrics or EvaluationMetrics of sgg_core.reporting
    created_at: Mapped[float] = mapped_column(default=database_now())
