"""A job that trains for too long: in a file of its own, since a process runs one worker at a time."""

from __future__ import annotations

import time
from pathlib import Path

from sgg_core.tiny import save_tiny_base
from sgg_store.checkpoints import Checkpoints
from sgg_store.job_state import JobStatus
from worker.embedded import start_embedded
from worker.testing import Workbench


def test_a_job_fails_once_all_its_attempts_have_trained_for_too_long_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"), max_job_seconds=12.0)
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    warm = bench.submit_steps(1, 1)  # so that the limit is of steps, not of imports
    worker.ring(warm)
    assert bench.wait_for_end(warm).status is JobStatus.SUCCEEDED
    job_id = bench.submit_steps(100_000, 50)
    worker.ring(job_id)
    bench.wait_for_step(job_id, 5)
    bench.pause(job_id)
    bench.wait_for_pause(job_id)
    time.sleep(3)  # which does not count
    bench.resume(job_id)
    worker.ring(job_id)
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "time_limit_exceeded")
    with bench.database.read() as session:
        assert Checkpoints(session).newest(job_id) is not None
    spans = [(attempt.started_at, attempt.ended_at or 0.0) for attempt in bench.attempts(job_id)]
    assert len(spans) == 2 and 11 < sum(end - begin for begin, end in spans) < 40
    worker.stop()
    bench.close()
