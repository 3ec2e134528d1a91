"""The register of workers."""

from __future__ import annotations

from sqlalchemy import true
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class WorkerRecord(Record):
    """One worker process that said it is there, and when it last did. What it runs, the attempts tell by its owner."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    draining: Mapped[bool]
    """It ends as soon as its job has a checkpoint, and takes no other."""
    answers_trials: Mapped[bool] = mapped_column(default=True, server_default=true())
    started_at: Mapped[float] = mapped_column(default=database_now())
    seen_at: Mapped[float] = mapped_column(default=database_now())
