"""A job that trains for too long: in a file of its own, since a process runs one worker at a time."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import update

from sgg_core.tiny import save_tiny_base
from sgg_store.checkpoints import Checkpoints
from sgg_store.job_state import JobStatus
from sgg_store.records import AttemptRecord
from worker.embedded import start_embedded
from worker.testing import Workbench


def test_a_job_fails_once_all_its_attempts_have_trained_for_too_long_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"), max_job_seconds=600.0)
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    job_id = bench.submit_steps(100_000, 50)
    worker.ring(job_id)
    bench.wait_for_step(job_id, 5)
    bench.pause(job_id)
    bench.wait_for_pause(job_id)
    with bench.database.begin() as session:  # as if it had trained for ten minutes by then
        session.execute(update(AttemptRecord).values(started_at=AttemptRecord.started_at - 600))
    bench.resume(job_id)
    worker.ring(job_id)
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "time_limit_exceeded")
    assert job.error_message is not None and "600 seconds" in job.error_message
    with bench.database.read() as session:
        assert Checkpoints(session).newest(job_id) is not None
    assert len(bench.attempts(job_id)) == 2
    worker.stop()
    bench.close()
