"""What can limit a project. Settings hold it, also those of commands that open no database: nothing here loads one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quota = Literal["running_jobs", "queued_jobs", "stored_bytes", "trainer_seconds_per_day"]


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """The most that a project may have; None is no limit. The names are those of `Quota`."""

    running_jobs: int | None = None
    queued_jobs: int | None = None
    stored_bytes: int | None = None
    trainer_seconds_per_day: int | None = None
