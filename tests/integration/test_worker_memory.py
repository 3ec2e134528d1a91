"""Who else took memory when a trainer got no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from sgg_store.records import JobRecord
from worker.child import spawn
from worker.run_job import JobRunner
from worker.supervisor import Supervisor
from worker.testing import Workbench


@pytest.mark.parametrize("predicts", [True, False])
def test_a_job_that_lacks_memory_beside_a_predictor_is_tried_once_more(tmp_path: Path, predicts: bool) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"))
    dying = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('MemoryError')"]
    supervisor = Supervisor(lambda: spawn(dying))
    runner = JobRunner(bench.settings, bench.database, bench.objects, supervisor, "w", lambda: predicts)
    job_id = bench.submit_steps(1, 1)
    runner.run(job_id)
    if predicts:
        assert bench.job(job_id).status is JobStatus.QUEUED
        with bench.database.begin() as session:
            session.get_one(JobRecord, job_id).next_ring_at = 0.0
        runner.run(job_id)
    job = bench.job(job_id)
    assert (job.status, job.error_code, job.current_attempt) == (JobStatus.FAILED, "out_of_memory", 1 + predicts)
    supervisor.stop()
    runner.close()
    bench.close()
