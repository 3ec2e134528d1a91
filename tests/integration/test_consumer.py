"""The consumer of doorbells: a process has one, because the broker in memory and Celery's tasks are the process's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgg_store.queue import TASK_RUN_JOB, make_celery, ring
from worker.consumer import Consumer
from worker.settings import WorkerSettings
from worker.testing import eventually


@pytest.mark.usefixtures("no_doorbells")
def test_a_second_consumer_of_a_process_is_refused_until_the_first_has_stopped(tmp_path: Path) -> None:
    app = make_celery(WorkerSettings(data_dir=tmp_path))
    heard: list[str] = []

    @app.task(name=TASK_RUN_JOB, ignore_result=True, shared=False)
    def hear(job_id: str) -> None:
        heard.append(job_id)

    first, second = Consumer(app), Consumer(app)
    first.start()
    try:
        with pytest.raises(RuntimeError, match="in this process already"):
            second.start()
        assert not second.alive
        ring(app, "ftjob-1")
        eventually(lambda: heard == ["ftjob-1"])
    finally:
        first.stop()
    second.start()
    second.stop()
