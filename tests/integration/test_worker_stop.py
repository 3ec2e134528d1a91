"""A worker that stops: in a file of its own, since a process runs one worker at a time."""

from __future__ import annotations

from pathlib import Path

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from worker.embedded import start_embedded
from worker.testing import Workbench


def test_a_worker_that_is_stopped_while_a_job_pauses_leaves_it_paused(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"))
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    job_id = bench.submit_steps(100_000, 1000)
    worker.ring(job_id)
    bench.wait_for_step(job_id, 5)
    bench.pause(job_id)
    worker.stop()
    job = bench.job(job_id)
    assert job.status is JobStatus.PAUSED
    assert bench.events(job_id)[-1].data["last_checkpoint_step"] == job.step
    bench.close()
