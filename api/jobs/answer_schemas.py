"""Fine-tuning jobs, their events, checkpoints and figures in answers."""

from __future__ import annotations

from typing import Any, Literal

from api.jobs.schemas import Method
from api.schemas import Identified, Out
from sgg_core.shapes import Kind
from sgg_core.spec import Auto

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page of events, or a stream of them.", "content": {"text/event-stream": {}}},
    204: {"description": "The stream is at its end: the job has ended, and `Last-Event-ID` is its last event."},
}

REPORT_FORMATS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The report.", "content": {"text/markdown": {}, "text/html": {}}},
}


class JobErrorOut(Out):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class HyperparametersOut(Out):
    """OpenAI's three hyperparameters; all others stand in `method`."""

    n_epochs: int | Auto
    batch_size: int | Auto
    learning_rate_multiplier: float | Auto


class FailureOut(Out):
    """Why a job failed, and who can do something about it."""

    code: str
    fault: Literal["user", "service"]
    """`user`: the data or the settings; `service`: the machine, the workers, the storage."""
    remedy: str


class ArtifactOut(Out):
    """A result file; download it through /v1/files/{file_id}/content."""

    file_id: str
    filename: str
    bytes: int
    sha256: str


class LastCheckpointOut(Out):
    """A checkpoint by its id and by the name of the model as it was then."""

    id: str
    name: str
    step: int


class AttemptOut(Out):
    """One worker's try at the job."""

    number: int
    """Counts from 1."""
    state: Literal["running", "succeeded", "failed", "cancelled", "lost", "preempted", "paused"]
    cause: str | None
    """Why it ended without a result, in one word."""
    started_at: int
    seconds: float
    """How long it took, or has taken so far."""
    first_step: int
    last_step: int


class SpreadOut(Out):
    """A time in Unix seconds: in one of ten cases it is before `early`, in one of ten after `late`."""

    early: int
    likely: int
    late: int


class ForecastOut(Out):
    """From measured steps, the jobs ahead, and how long such jobs took before. Null where nothing was measured yet."""

    start: SpreadOut | None
    """Null unless the job is queued."""
    end: SpreadOut | None


class SggJobOut(Out):
    """What this server knows of a job beyond OpenAI's fields."""

    kind: Kind | None
    """Of the training file; null once that file is deleted."""
    suffix: str | None
    """As it was asked for; a part of the model's name."""
    queue_position: int | None
    """1 is next; null unless the job is queued."""
    workers: int | None
    """How many workers there are to take it; null unless the job is queued."""
    step: int
    total_steps: int | None
    progress: float
    """0 to 1."""
    metrics: dict[str, float | int | bool | None]
    """The newest figures of a step, and the newest of an evaluation. Of a succeeded job, losses and accuracies are
    those of the run that was kept: of its last step, and by its weights."""
    attempts: int
    """How many times a worker took the job."""
    attempt_history: list[AttemptOut] | None
    """First to last; null in lists of jobs."""
    forecast: ForecastOut | None
    """Null in lists of jobs, and unless the job is queued or running."""
    cancel_requested: bool
    pause_requested: bool
    """The job is running and stops before its next step."""
    last_checkpoint: LastCheckpointOut | None
    """The newest one, which a paused job goes on from, and which a cancelled job leaves."""
    sources: list[str]
    failure: FailureOut | None
    artifacts: list[ArtifactOut]


class JobOut(Identified):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int
    finished_at: int | None
    fine_tuned_model: str | None
    organization_id: str
    result_files: list[str]
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    """`paused`, which OpenAI's schema does not list, appears after a pause alone."""
    validation_file: str | None
    training_file: str
    hyperparameters: HyperparametersOut
    trained_tokens: int | None
    error: JobErrorOut | None
    integrations: tuple[()] = ()
    seed: int
    estimated_finish: int | None
    method: Method
    metadata: dict[str, str]
    sgg: SggJobOut


class EventOut(Identified):
    """One event of a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class SggCheckpointOut(Out):
    """What this server knows of a checkpoint beyond OpenAI's fields."""

    files: list[ArtifactOut]
    """The weights and the configuration with which PEFT loads them."""


class CheckpointOut(Identified):
    """One checkpoint of a job."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | int | None]
    sgg: SggCheckpointOut


class SeriesOut(Out):
    """One figure over the steps. The lists are equally long; `low` and `high` bound what a point is the mean of."""

    name: str
    steps: list[int]
    """The last step of each point."""
    values: list[float]
    low: list[float]
    high: list[float]


class MetricsOut(Out):
    """Figures of a job."""

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    from_step: int
    to_step: int
    steps_per_point: int
    """1 unless there are more steps than the resolution allows."""
    data: list[SeriesOut]
