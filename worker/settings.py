"""What a worker can be told, from the environment (`SGG_...`). Durations are in seconds."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sgg_store.settings import StoreSettings

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class WorkerSettings(StoreSettings):
    """The store's settings and what only a worker needs."""

    warm_base_model: str = "last"
    """Base model the trainer loads before the first job: a name of the catalogue, `last` for the one that the newest
    job used, or `none` to import libraries only. It costs the model's memory while the worker is idle."""
    base_model_memory_bytes: Annotated[int, Field(ge=0)] = 4 * 2**30
    """How many bytes of base models may stay loaded between jobs, so that jobs on several of them in turns load each
    once. The one that a job trains on is loaded in any case, and is then the only one if it is larger."""
    cpu_precision: Literal["auto", "float32"] = "auto"
    """What CPUs compute products with frozen weights in: `auto` takes bfloat16 where the processor is quick with it.
    Children read it from the environment."""
    worker_name: str = socket.gethostname()
    """Shown as the owner of attempts, together with the process id."""
    jobs_at_once: Annotated[int, Field(ge=1, le=256)] = 1
    """How many jobs on one base model are trained together at most, their examples in one batch. Memory grows with each
    of them; a GPU that one small job leaves idle gains the most. A job that cannot share trains alone."""
    pack_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """How much memory jobs that are trained together may take as forecasts have it, the base model included. 0: four
    fifths of the GPU's, or on a CPU of the machine's or container's."""
    stall_seconds: Seconds = 1800.0
    """A trainer that says nothing for this long is killed, and its job goes on from the last checkpoint."""
    max_job_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 7 * 86_400.0
    """How long a job may train, all its attempts together; then it fails, and its checkpoints stay."""
    max_job_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 100
    """How many of its newest checkpoints a job keeps at most, and how many of its best."""
    stop_seconds: Seconds = 10.0
    """How long a trainer may take for its last checkpoint when its job is cancelled or the worker shuts down."""
    flush_seconds: Seconds = 0.5
    """How long the figures of steps are collected before they are written, and how soon a cancellation is noticed."""
    dispatch_seconds: Seconds = 0.5
    """How often the dispatcher looks for queued jobs whose doorbell is due."""

    trial_memory_bytes: Annotated[int, Field(ge=0)] = 4 * 2**30
    """How many bytes of base models may stay loaded to answer trials; 0: this worker answers none."""
    trial_device: Literal["cpu", "cuda"] = "cpu"
    """Where trials are answered. `cuda` shares the GPU with training, which then has less memory and time of it."""
    trial_idle_seconds: Seconds = 300.0
    """How long after the last trial the process that answers is kept; then its memory is free again."""

    @classmethod
    def extending(cls, settings: StoreSettings) -> WorkerSettings:
        """These store settings, and the worker's own from the environment."""
        if isinstance(settings, cls):
            return settings
        return cls(**{name: getattr(settings, name) for name in StoreSettings.model_fields})

    @property
    def scratch_dir(self) -> Path:
        """Where the inputs and outputs of running attempts lie."""
        return self.data_dir / "scratch"
