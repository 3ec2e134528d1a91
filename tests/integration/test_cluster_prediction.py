"""What the simulated cluster says of a real worker, whose pace was measured right before: within a quarter."""

import time

import pytest

from sgg_core.bench.cluster import Pace, simulate
from sgg_core.tiny import save_tiny_base
from worker.embedded import start_embedded
from worker.testing import Workbench

AT_ONCE = 3
STEPS = 60
GAP = 0.4  # seconds between two jobs
JOBS = 12


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"), jobs_at_once=AT_ONCE)
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    yield bench, worker
    worker.stop()
    bench.close()


def makespan(bench, worker, jobs, gap):
    """Seconds from the first ring until the last job has ended."""
    job_ids = [bench.submit_steps(STEPS, STEPS) for _ in range(jobs)]
    begun = time.time()
    for number, job_id in enumerate(job_ids):
        time.sleep(max(0.0, begun + number * gap - time.time()))  # the schedule is what is tested
        worker.ring(job_id)
    for job_id in job_ids:
        bench.wait_for_end(job_id)
    return max(bench.attempts(job_id)[-1].ended_at for job_id in job_ids) - begun


@pytest.mark.figures
def test_the_end_of_a_dozen_jobs_is_foretold_within_a_quarter(service):
    bench, worker = service
    makespan(bench, worker, 1, 0.0)  # warms the trainer up
    pace = Pace({jobs: makespan(bench, worker, jobs, 0.0) for jobs in (1, AT_ONCE)})
    foretold = max(simulate([number * GAP for number in range(JOBS)], 1, pace).ended)
    taken = makespan(bench, worker, JOBS, GAP)
    print(f"\nseconds of packs {pace.seconds}, foretold {foretold:.2f} s, taken {taken:.2f} s")
    assert foretold == pytest.approx(taken, rel=0.25)
