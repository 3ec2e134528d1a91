"""From rows to answers about jobs."""

from __future__ import annotations

import time
from typing import Literal, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.schemas import (
    ArtifactOut,
    CheckpointOut,
    EventOut,
    FailureOut,
    Hyperparameters,
    HyperparametersOut,
    JobErrorOut,
    JobOut,
    Method,
    MethodSettings,
    SggJobOut,
)
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_store import ids
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.metrics import AnyMetrics, Metrics
from sgg_store.records import AttemptRecord, CheckpointRecord, EventRecord, FileRecord, JobRecord
from sgg_store.retries import Cause

SERVICE_REMEDY = "Tell the administrator the job's id; when the cause is removed, submit the job again."
FILE_REMEDY = "Correct the file as the message says, upload it, and submit the job with the new id."
REMEDIES = {
    "file_not_found": "Upload the file again and submit the job with the new id.",
    "invalid_training_file": FILE_REMEDY,
    "invalid_validation_file": FILE_REMEDY,
    "invalid_source_file": FILE_REMEDY,
    "invalid_hyperparameters": "Change the hyperparameters that the message names, and submit the job again.",
    "model_not_found": "Choose a base model that /v1/models lists, and submit the job again.",
    "training_diverged": "Lower the learning rate or set clip_norm, and submit the job again.",
    "out_of_memory": "Lower batch_size, task.max_tokens or lora.rank, and submit the job again.",
    "poison_job": "Lower batch_size, task.max_tokens or lora.rank, and submit the job again.",
    "preempted_too_often": "Lower checkpoint.every_steps, and submit the job again.",
    "worker_lost": SERVICE_REMEDY,
    "database_unavailable": SERVICE_REMEDY,
    "storage_unavailable": "Ask the administrator to free space or restore the storage, and submit the job again.",
    "base_model_unavailable": "Ask the administrator to install the base model's files, and submit the job again.",
    "invalid_catalogue": "Ask the administrator to repair base-models.json, and submit the job again.",
    "invalid_checkpoint": SERVICE_REMEDY,
    "internal_error": SERVICE_REMEDY,
}


def job_out(session: Session, job: JobRecord) -> JobOut:
    """Describe a job as it is now."""
    spec = TrainingSpec.model_validate(job.spec)
    settings = MethodSettings(hyperparameters=Hyperparameters.of(spec), sources=tuple(job.source_file_ids))
    metrics = Metrics(session).newest(job.id)
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
        hyperparameters=HyperparametersOut(
            n_epochs=spec.optimization.epochs,
            batch_size=spec.optimization.batch_size,
            learning_rate_multiplier=spec.optimization.learning_rate_multiplier,
        ),
        trained_tokens=job.trained_tokens,
        error=JobErrorOut(code=job.error_code or "", message=job.error_message or "", param=job.error_param)
        if failed
        else None,
        seed=job.seed,
        estimated_finish=_estimated_finish(job, metrics),
        method=Method.model_validate({"type": spec.method, spec.method: settings}),
        metadata=dict(job.user_metadata),
        sgg=_sgg_out(session, job, metrics),
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


def checkpoint_out(job: JobRecord, checkpoint: CheckpointRecord) -> CheckpointOut:
    """Describe a checkpoint."""
    model = ids.fine_tuned_model_name(job.base_model, job.project_id, job.suffix, job.id)
    return CheckpointOut(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=ids.checkpoint_model_name(model, checkpoint.step),
        fine_tuning_job_id=job.id,
        step_number=checkpoint.step,
        metrics=checkpoint.metrics,
    )


def _sgg_out(session: Session, job: JobRecord, metrics: dict[str, AnyMetrics]) -> SggJobOut:
    training_file = session.get(FileRecord, job.training_file_id)
    done = job.step / job.total_steps if job.total_steps else 0.0
    return SggJobOut(
        kind=(training_file.facts or {}).get("kind") if training_file else None,
        queue_position=Jobs(session).queue_position(job),
        step=job.step,
        total_steps=job.total_steps,
        progress=1.0 if job.status is JobStatus.SUCCEEDED else min(1.0, done),
        metrics=_figures(metrics),
        attempts=job.current_attempt,
        cancel_requested=job.cancel_requested,
        sources=job.source_file_ids,
        failure=_failure(session, job) if job.status is JobStatus.FAILED else None,
        artifacts=_artifacts(session, job),
    )


def _figures(metrics: dict[str, AnyMetrics]) -> dict[str, float | int | bool | None]:
    figures: dict[str, float | int | bool | None] = {}
    evaluation, step = metrics.get("evaluation"), metrics.get("step")
    if isinstance(evaluation, EvaluationMetrics):
        figures |= evaluation.model_dump(exclude={"type", "step", "examples"})
    if isinstance(step, StepMetrics):
        figures |= step.model_dump(exclude={"type", "total_steps"})
    return figures


def _estimated_finish(job: JobRecord, metrics: dict[str, AnyMetrics]) -> int | None:
    step = metrics.get("step")
    if job.status is not JobStatus.RUNNING or not isinstance(step, StepMetrics):
        return None
    return int(time.time() + (step.total_steps - step.step) * step.seconds)


def _failure(session: Session, job: JobRecord) -> FailureOut:
    attempt = session.get(AttemptRecord, (job.id, job.current_attempt))
    users = attempt is not None and attempt.cause is Cause.USER
    code = job.error_code or ""
    remedy = REMEDIES.get(code, SERVICE_REMEDY)  # another version of the worker may know other codes
    return FailureOut(code=code, fault="user" if users else "service", remedy=remedy)


def _artifacts(session: Session, job: JobRecord) -> list[ArtifactOut]:
    found = session.scalars(select(FileRecord).where(FileRecord.id.in_(job.result_file_ids)))
    files = {file.id: file for file in found} if job.result_file_ids else {}
    return [
        ArtifactOut(file_id=file.id, filename=file.filename, bytes=file.bytes, sha256=file.sha256)
        for file in (files[file_id] for file_id in job.result_file_ids if file_id in files)
    ]
