"""The Celery tasks. A doorbell says which job may be waiting; whether it is, the database decides."""

from __future__ import annotations

from celery import Celery

from sgg_store.logs import get_logger
from sgg_store.queue import TASK_RUN_JOB
from worker.run_job import JobRunner

_log = get_logger(__name__)


def register_tasks(app: Celery, runner: JobRunner) -> None:
    """Give the application its one task, which runs jobs with `runner`."""

    @app.task(name=TASK_RUN_JOB, ignore_result=True, shared=False)  # another application has another runner
    def run_job(*doorbell: object) -> None:
        match doorbell:
            case (str(job_id),) if job_id.startswith("ftjob-") and len(job_id) < 100:
                runner.run(job_id)
            case _:
                _log.warning("a doorbell names no job and is ignored", doorbell=repr(doorbell)[:200])
