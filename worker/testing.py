"""A data directory with a tiny base model in it, and jobs on it: what tests of running jobs begin with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sgg_core.catalogue import BaseModelEntry, Catalogue
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_store import ids
from sgg_store.database import Database
from sgg_store.events import Events
from sgg_store.files import Files
from sgg_store.job_state import TERMINAL, JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.metrics import Metrics
from sgg_store.new_jobs import NewJob, NewJobs
from sgg_store.objects import ObjectStore, file_key, open_object_store
from sgg_store.records import AttemptRecord, EventRecord, JobRecord
from sgg_store.starting_points import StartingPoints
from worker.settings import WorkerSettings

TWO_LABELS = b"".join(
    b'{"text": "example %d %s", "label": "%s"}\n' % (number, word, label)
    for number in range(8)
    for word, label in ((b"fine and good", b"good"), (b"poor and bad", b"bad"))
)
_Value = TypeVar("_Value")


def eventually(read: Callable[[], _Value | None], seconds: float = 120.0) -> _Value:
    """Call `read` until it gives something true, and give that. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (value := read()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {value!r} after {seconds:g} s")
        time.sleep(0.05)
    return value


class Workbench:
    """The service's data directory without the service: submit jobs, look at what became of them."""

    def __init__(self, data_dir: Path, base_model: BaseModelEntry, **settings: Any) -> None:
        fast: dict[str, Any] = {"flush_seconds": 0.1, "dispatch_seconds": 0.1, "reap_seconds": 0.2}
        chosen: dict[str, Any] = {"data_dir": data_dir, "warm_base_model": "none"} | fast | settings
        self.settings = WorkerSettings(**chosen)
        self.base_model = base_model
        Catalogue.load(data_dir).add(base_model)
        self.database = Database(self.settings.database_url)
        self.database.upgrade_schema()
        self.objects: ObjectStore = open_object_store(self.settings.object_store_url)
        with self.database.begin() as session:
            ensure_project(session)

    def close(self) -> None:
        """Close the database's connections."""
        self.database.dispose()

    def upload(self, content: bytes, filename: str = "examples.jsonl", project_id: str = DEFAULT_PROJECT_ID) -> str:
        """Store a data file as the API would; gives its id."""
        file_id = ids.new_id("file-")
        self.objects.put(file_key(file_id), content)
        with self.database.begin() as session:
            ensure_project(session, project_id)
            Files(session).add(
                file_id=file_id,
                project_id=project_id,
                filename=filename,
                purpose="fine-tune",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                object_key=file_key(file_id),
            )
        return file_id

    def submit(
        self,
        training: bytes = TWO_LABELS,
        validation: bytes | None = None,
        sources: Sequence[bytes] = (),
        start_from: str | None = None,
        retention: bytes | None = None,
        project_id: str = DEFAULT_PROJECT_ID,
        **spec: Any,
    ) -> str:
        """Queue a job on the tiny base model with these groups of a TrainingSpec; gives its id. Rings no doorbell."""
        request = TrainingSpec.model_validate({"base_model": self.base_model.name} | spec)

        def stored(content: bytes | None, filename: str) -> str | None:
            return None if content is None else self.upload(content, filename, project_id)

        new = NewJob(
            project_id=project_id,
            base_model=request.base_model,
            spec=request.model_dump(mode="json"),
            seed=request.seed,
            training_file_id=self.upload(training, project_id=project_id),
            validation_file_id=stored(validation, "validation.jsonl"),
            source_file_ids=tuple(self.upload(source, "source.jsonl", project_id) for source in sources),
            retention_file_id=stored(retention, "retention.jsonl"),
        )
        with self.database.begin() as session:
            if start_from is not None:
                new = replace(new, start=StartingPoints(session, project_id).find(start_from).start)
            return NewJobs(session).create(new)[0].id

    def submit_steps(self, steps: int, checkpoint_every: int) -> str:
        """Queue a job of so many steps."""
        spec: dict[str, Any] = {"optimization": {"epochs": 1000, "max_steps": steps, "batch_size": 4}}
        return self.submit(**spec, checkpoint={"every_steps": checkpoint_every})

    def cancel(self, job_id: str) -> None:
        """Ask for a job's end as the API would."""
        with self.database.begin() as session:
            Jobs(session).request_cancel(session.get_one(JobRecord, job_id).project_id, job_id)

    def pause(self, job_id: str) -> None:
        """Ask for a job's rest as the API would."""
        with self.database.begin() as session:
            Jobs(session).request_pause(session.get_one(JobRecord, job_id).project_id, job_id)

    def resume(self, job_id: str) -> None:
        """Let a paused job go on as the API would. Rings no doorbell."""
        with self.database.begin() as session:
            Jobs(session).resume(session.get_one(JobRecord, job_id).project_id, job_id)

    def job(self, job_id: str) -> JobRecord:
        """The job's row as it is now."""
        with self.database.read() as session:
            return session.get_one(JobRecord, job_id)

    def jobs(self) -> list[JobRecord]:
        """All jobs' rows, oldest first."""
        with self.database.read() as session:
            return session.query(JobRecord).order_by(JobRecord.created_at, JobRecord.id).all()

    def wait_for_step(self, job_id: str, step: int) -> JobRecord:
        """Wait until the job runs and has done `step` steps."""

        def reached() -> JobRecord | None:
            job = self.job(job_id)
            return job if job.status is JobStatus.RUNNING and job.step >= step else None

        return eventually(reached)

    def wait_for_end(self, job_id: str) -> JobRecord:
        """Wait until the job is finished, one way or another."""
        return self._wait_for(job_id, TERMINAL)

    def wait_for_pause(self, job_id: str) -> JobRecord:
        """Wait until the job is paused."""
        return self._wait_for(job_id, {JobStatus.PAUSED})

    def _wait_for(self, job_id: str, statuses: Collection[JobStatus]) -> JobRecord:
        def reached() -> JobRecord | None:
            job = self.job(job_id)
            return job if job.status in statuses else None

        return eventually(reached)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The job's attempts, first to last."""
        with self.database.read() as session:
            query = session.query(AttemptRecord).where(AttemptRecord.job_id == job_id).order_by(AttemptRecord.number)
            return query.all()

    def events(self, job_id: str) -> list[EventRecord]:
        """The job's events, first to last."""
        with self.database.read() as session:
            return Events(session).since(session.get_one(JobRecord, job_id).project_id, job_id, 0, limit=100_000)

    def metrics(self, job_id: str) -> list[StepMetrics | EvaluationMetrics]:
        """The job's figures, first to last."""
        with self.database.read() as session:
            return Metrics(session).since(job_id)

    def steps(self, job_id: str) -> list[int]:
        """The steps of which there are figures, each as often as there are."""
        return [message.step for message in self.metrics(job_id) if isinstance(message, StepMetrics)]
