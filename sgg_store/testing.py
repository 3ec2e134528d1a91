"""Rows to test against: a project with a file and jobs, made by the same repositories that the service uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, insert
from sqlalchemy.orm import Session

from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store import ids
from sgg_store.files import Files
from sgg_store.job_state import JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.new_jobs import NewJob, NewJobs
from sgg_store.objects import file_key
from sgg_store.records import CheckpointRecord, EventRecord, FileRecord, JobRecord, MetricRecord


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What this thread asks of databases within the block, as SQL and its parameters; without the BEGINs."""
    sent: list[tuple[str, Any]] = []
    sender = threading.get_ident()

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if threading.get_ident() == sender and not statement.startswith("BEGIN"):
            sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def add_file(session: Session, project_id: str = DEFAULT_PROJECT_ID, **values: Any) -> FileRecord:
    """Add the row of an uploaded file to a project, which is made if need be. `values` go to `Files.add`."""
    ensure_project(session, project_id)
    file_id = ids.new_id("file-")
    defaults: dict[str, Any] = {
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "bytes": 0,
        "sha256": "0" * 64,
        "object_key": file_key(file_id),
    }
    return Files(session).add(file_id=file_id, project_id=project_id, **{**defaults, **values})


def new_job(session: Session, project_id: str = DEFAULT_PROJECT_ID, **values: Any) -> NewJob:
    """A request for a job on a new file. `values` go to NewJob."""
    defaults: dict[str, Any] = {"base_model": "tiny", "spec": {"base_model": "tiny"}, "seed": 0}
    if "training_file_id" not in values:
        defaults["training_file_id"] = add_file(session, project_id).id
    return NewJob(project_id=project_id, **{**defaults, **values})


def add_job(session: Session, project_id: str = DEFAULT_PROJECT_ID, **values: Any) -> JobRecord:
    """Add a queued job on a new file. `values` go to NewJob."""
    return NewJobs(session).create(new_job(session, project_id, **values))[0]


def step_metrics(step: int) -> StepMetrics:
    """Figures of a step, for tests that are about the step's number alone."""
    return StepMetrics(
        step=step,
        total_steps=9,
        epoch=0.1,
        train_loss=1.0,
        train_accuracy=0.5,
        learning_rate=5e-4,
        gradient_norm=0.3,
        seconds=0.25,
        tokens=100,
    )


def add_history(
    session: Session, project_id: str, status: JobStatus, *, jobs: int, points: int, began: float = 1e9
) -> list[str]:
    """Add many jobs at once, all of one status and on one file, each with so many metric points and events.

    Job number n was created n seconds after `began`. Every tenth point is an evaluation, and half-way there is a
    checkpoint. Gives the jobs' ids, oldest first.
    """
    file_id = add_file(session, project_id, facts={"kind": "classification"}).id
    job_ids = [ids.new_id("ftjob-") for _ in range(jobs)]
    base = {
        **{"project_id": project_id, "status": status, "base_model": "tiny", "spec": {"base_model": "tiny"}},
        **{"suffix": None, "seed": 0, "training_file_id": file_id, "source_file_ids": []},
        **{"request_hash": "", "result_file_ids": [], "step": points, "total_steps": points, "last_event_seq": points},
    }
    rows = [base | {"id": job_id, "created_at": began + number} for number, job_id in enumerate(job_ids)]
    session.execute(insert(JobRecord), rows)
    for first in range(0, jobs if points else 0, 100):
        some = job_ids[first : first + 100]
        places = [(job_id, number) for job_id in some for number in range(1, points + 1)]
        session.execute(insert(MetricRecord), [_point(job_id, step) for job_id, step in places])
        told = {"project_id": project_id, "level": "info", "type": "message", "message": "A step.", "data": {}}
        session.execute(insert(EventRecord), [told | {"job_id": job_id, "seq": seq} for job_id, seq in places])
        saved = {"project_id": project_id, "attempt": 1, "step": points // 2, "manifest": {}, "metrics": {}}
        session.execute(
            insert(CheckpointRecord),
            [saved | {"id": ids.new_id("ftckpt_"), "job_id": job_id, "object_prefix": "none"} for job_id in some],
        )
    return job_ids


def _point(job_id: str, step: int) -> dict[str, Any]:
    """A row of metrics, of the size that real ones have."""
    evaluation = EvaluationMetrics(step=step, valid_loss=2 / step, valid_accuracy=0.75, examples=4)
    training = StepMetrics(
        step=step,
        total_steps=100,
        epoch=step / 100,
        train_loss=1 / step,
        train_accuracy=0.5,
        learning_rate=1e-4,
        gradient_norm=0.5,
        seconds=2.0,
        tokens=10,
    )
    figures = evaluation if step % 10 == 0 else training
    return {
        **{"job_id": job_id, "step": step, "type": figures.type, "attempt": 1},
        "figures": figures.model_dump(mode="json"),
    }
