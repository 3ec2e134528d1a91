"""From rows to answers about jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal, cast

from api.jobs.answer_schemas import (
    ArtifactOut,
    AttemptOut,
    CheckpointOut,
    EventOut,
    FailureOut,
    ForecastOut,
    HyperparametersOut,
    JobErrorOut,
    JobOut,
    LastCheckpointOut,
    SggCheckpointOut,
    SggJobOut,
    SpreadOut,
)
from api.jobs.failures import FAILURES, SERVICE_REMEDY
from api.jobs.schemas import Hyperparameters, Method, MethodSettings
from sgg_core.spec import TrainingSpec
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.job_views import AttemptView, JobView
from sgg_store.outlook import NOTHING, Outlook, Spread
from sgg_store.records import CheckpointRecord, EventRecord, FileRecord, JobRecord
from sgg_store.retries import Cause


def job_out(view: JobView, outlook: Outlook, *, alone: bool = False) -> JobOut:
    """Describe a job as it is now. What is told of a job that is read alone is left out of lists."""
    job = view.job
    spec = TrainingSpec.model_validate(job.spec)
    settings = MethodSettings(
        hyperparameters=Hyperparameters.of(spec),
        sources=tuple(job.source_file_ids),
        retention_file=job.retention_file_id,
        start_from=job.start_name,
        priority=job.priority,
    )
    failed = job.status is JobStatus.FAILED
    return JobOut(
        id=job.id,
        model=job.base_model,
        created_at=int(job.created_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        fine_tuned_model=job.fine_tuned_model,
        organization_id=job.project_id,
        result_files=job.result_file_ids,
        status=job.status.value,
        validation_file=job.validation_file_id,
        training_file=job.training_file_id,
        hyperparameters=_hyperparameters(job, spec),
        trained_tokens=job.trained_tokens,
        error=JobErrorOut(code=job.error_code or "", message=job.error_message or "", param=job.error_param)
        if failed
        else None,
        seed=job.seed,
        estimated_finish=_estimated_finish(view),
        method=Method.model_validate({"type": spec.method, spec.method: settings}),
        metadata=view.user_metadata,
        sgg=_sgg_out(view, outlook, alone),
    )


def event_out(event: EventRecord) -> EventOut:
    """Describe an event."""
    return EventOut(
        id=event.id,
        created_at=int(event.created_at),
        level=cast(Literal["info", "warn", "error"], event.level),
        message=event.message,
        type=cast(Literal["message", "metrics"], event.type),
        data=event.data,
    )


def render_event(event: EventRecord) -> str:
    """Describe an event as JSON on one line."""
    return event_out(event).model_dump_json()


def checkpoint_out(job: JobRecord, checkpoint: CheckpointRecord, files: Iterable[FileRecord]) -> CheckpointOut:
    """Describe a checkpoint."""
    return CheckpointOut(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=job.checkpoint_name(checkpoint.step),
        fine_tuning_job_id=job.id,
        step_number=checkpoint.step,
        metrics=checkpoint.metrics,
        sgg=SggCheckpointOut(
            files=[
                ArtifactOut(file_id=file.id, filename=file.filename, bytes=file.bytes, sha256=file.sha256)
                for file in files
            ]
        ),
    )


def _hyperparameters(job: JobRecord, spec: TrainingSpec) -> HyperparametersOut:
    """As asked for; once the training has begun, what became of each `auto`."""
    asked = spec.optimization
    return HyperparametersOut(
        n_epochs=job.epochs or asked.epochs if asked.epochs == "auto" else asked.epochs,
        batch_size=job.batch_size or asked.batch_size if asked.batch_size == "auto" else asked.batch_size,
        learning_rate_multiplier=asked.multiplier if job.epochs else asked.learning_rate_multiplier,
    )


def _sgg_out(view: JobView, outlook: Outlook, alone: bool) -> SggJobOut:
    job = view.job
    position = None if view.place is None else outlook.position(job.project_id, job.priority, view.place)
    done = job.step / job.total_steps if job.total_steps else 0.0
    return SggJobOut(
        kind=cast(Literal["classification", "completion", "chat"] | None, view.kind),
        suffix=job.suffix,
        queue_position=position,
        workers=None if position is None else outlook.workers,
        step=job.step,
        total_steps=job.total_steps,
        progress=1.0 if job.status is JobStatus.SUCCEEDED else min(1.0, done),
        metrics=_figures(view),
        attempts=job.current_attempt,
        attempt_history=[_attempt(each, view.now) for each in view.attempts] if alone else None,
        forecast=_forecast(view, outlook, position) if alone else None,
        cancel_requested=job.cancel_requested,
        pause_requested=job.pause_requested,
        last_checkpoint=_last_checkpoint(view),
        sources=job.source_file_ids,
        failure=_failure(view) if job.status is JobStatus.FAILED else None,
        artifacts=[
            ArtifactOut(file_id=file.id, filename=file.filename, bytes=file.bytes, sha256=file.sha256)
            for file in view.results
        ],
    )


def _attempt(attempt: AttemptView, now: float) -> AttemptOut:
    return AttemptOut(
        number=attempt.number,
        state=AttemptState(attempt.state).value,
        cause=attempt.cause,
        started_at=int(attempt.started_at),
        seconds=round(attempt.seconds(now), 3),
        first_step=attempt.start_step,
        last_step=attempt.last_step,
    )


def _forecast(view: JobView, outlook: Outlook, position: int | None) -> ForecastOut | None:
    forecast = NOTHING
    if position is not None:
        forecast = outlook.of_queued(view.job.base_model, position, view.now)
    elif view.job.status is JobStatus.RUNNING:
        forecast = outlook.of_running(view.job.id, view.now)
    return None if forecast == NOTHING else ForecastOut(start=_spread(forecast.start), end=_spread(forecast.end))


def _spread(spread: Spread | None) -> SpreadOut | None:
    if spread is None:
        return None
    return SpreadOut(early=int(spread.early), likely=int(spread.likely), late=int(spread.late))


def _last_checkpoint(view: JobView) -> LastCheckpointOut | None:
    if view.checkpoint is None:
        return None
    checkpoint_id, step = view.checkpoint
    return LastCheckpointOut(id=checkpoint_id, name=view.job.checkpoint_name(step), step=step)


def _figures(view: JobView) -> dict[str, float | int | bool | None]:
    figures: dict[str, float | int | bool | None] = {}
    if view.evaluation is not None:
        figures |= view.evaluation.model_dump(exclude={"type", "step", "examples"})
    if view.step is not None:
        figures |= view.step.model_dump(exclude={"type", "total_steps", "replica"})
    return figures | (view.job.final_figures or {})


def _estimated_finish(view: JobView) -> int | None:
    if view.job.status is not JobStatus.RUNNING or view.step is None:
        return None
    return int(time.time() + (view.step.total_steps - view.step.step) * view.step.seconds)


def _failure(view: JobView) -> FailureOut:
    code = view.job.error_code or ""
    known = FAILURES.get(code)  # another version of the worker may know other codes
    remedy = known.remedy if known else SERVICE_REMEDY
    return FailureOut(code=code, fault="user" if view.cause is Cause.USER else "service", remedy=remedy)
