"""Who else took memory when a trainer got no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from sgg_store.records import JobRecord
from worker.child import spawn
from worker.messages import Train
from worker.run_job import JobRunner
from worker.supervisor import Supervisor
from worker.testing import Workbench

DYING = """
import sys
for line in sys.stdin:
    if '"type":"train"' in line:
        open(sys.argv[1], "a").write(line)
        sys.exit("MemoryError")
"""


@pytest.mark.parametrize(("predicts", "seeds"), [(True, 1), (False, 2), (True, 2), (False, 1)])
def test_a_job_that_lacks_memory_beside_a_predictor_or_its_own_replicas_is_tried_once_more_with_less(
    tmp_path: Path, predicts: bool, seeds: int
) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"), pack_memory_bytes=2**30)
    told = tmp_path / "told"
    supervisor = Supervisor(lambda: spawn([sys.executable, "-c", DYING, str(told)]))
    runner = JobRunner(bench.settings, bench.database, bench.objects, supervisor, "w", lambda: predicts)
    job_id = bench.submit(optimization={"seeds": seeds})
    runner.run(job_id)
    again = predicts or seeds > 1
    if again:
        assert bench.job(job_id).status is JobStatus.QUEUED
        with bench.database.begin() as session:
            session.get_one(JobRecord, job_id).next_ring_at = 0.0
        runner.run(job_id)
    job = bench.job(job_id)
    assert (job.status, job.error_code, job.current_attempt) == (JobStatus.FAILED, "out_of_memory", 1 + again)
    commands = [Train.model_validate_json(line) for line in told.read_bytes().splitlines()]
    may_take = [(command.memory_bytes > 0, command.keep_bytes > 0) for command in commands]
    assert may_take == [(True, True), (False, False)][: job.current_attempt]
    supervisor.stop()
    runner.close()
    bench.close()
