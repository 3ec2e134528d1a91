"""Workers in answers."""

from __future__ import annotations

from typing import Literal

from api.schemas import Identified
from sgg_store.workers import WorkerState


class WorkerOut(Identified):
    """A worker process. Its id is the owner of attempts."""

    object: Literal["worker"] = "worker"
    host: str
    pid: int
    version: str
    status: WorkerState
    """`draining`: it ends after a checkpoint. `lost`: it was not seen for 45 s; after an hour it is left out."""
    job_ids: list[str]
    """The jobs that it runs."""
    started_at: int
    seen_at: int
