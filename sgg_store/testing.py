"""Rows to test against: a project with a file and jobs, made by the same repositories that the service uses."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.files import Files
from sgg_store.jobs import Jobs, NewJob
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.objects import file_key
from sgg_store.records import FileRecord, JobRecord


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
    return Jobs(session).create(new_job(session, project_id, **values))[0]
