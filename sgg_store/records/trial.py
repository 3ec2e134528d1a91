"""Trials: questions to models that somebody is waiting for. Rows of seconds; nothing is kept of them."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class TrialState(enum.StrEnum):
    """How far a trial is. A caller that went away takes its trial along: the row is deleted."""

    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"


class TrialRecord(Record):
    """One question, and its answer as far as it is written."""

    __tablename__ = "trials"
    __table_args__ = (Index(None, "state", "created_at", "id"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    base_model: Mapped[str]
    adapter: Mapped[dict[str, Any] | None]  # a StoredAdapter of sgg_store.trials; none: the bare base model
    files: Mapped[dict[str, Any] | None]  # StoredFiles of sgg_store.trials by their roles, that the request is about
    request: Mapped[dict[str, Any]]  # a Trial of sgg_core.trials
    streamed: Mapped[bool]  # whether parts of the answer are wanted as they come
    state: Mapped[TrialState] = mapped_column(default=TrialState.WAITING)
    token: Mapped[str | None]  # of the worker that took it
    created_at: Mapped[float] = mapped_column(default=database_now())
    # the worker's last sign of life; while none has it, since when its project has waited for its turn
    heard_at: Mapped[float] = mapped_column(default=database_now())
    expires_at: Mapped[float]
    answer: Mapped[dict[str, Any] | None]  # a TrialAnswer, complete once the state says so; or a TrialFailure
