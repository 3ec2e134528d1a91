"""What the simulated cluster says of a real worker, whose pace was measured right before."""

import time
from statistics import mean

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


def ends(bench, worker, arriving):
    """Seconds until each job's end, of jobs that arrive at these seconds."""
    job_ids = []
    begun = time.time()
    for moment in arriving:
        time.sleep(max(0.0, begun + moment - time.time()))  # the schedule is what is tested
        job_ids.append(bench.submit_steps(STEPS, STEPS))  # not before: a worker takes what is queued without a ring
        worker.ring(job_ids[-1])
    for job_id in job_ids:
        bench.wait_for_end(job_id)
    return [bench.attempts(job_id)[-1].ended_at - begun for job_id in job_ids]


@pytest.mark.figures
def test_the_last_end_of_a_dozen_jobs_is_foretold_within_a_quarter_and_their_mean_time_within_a_third(service):
    bench, worker = service
    ends(bench, worker, [0.0])  # warms the trainer up
    pace = Pace({jobs: max(ends(bench, worker, [0.0] * jobs)) for jobs in (1, AT_ONCE)})
    arriving = [number * GAP for number in range(JOBS)]
    foretold = simulate(arriving, 1, pace).ended
    taken = ends(bench, worker, arriving)
    until_result = [mean(each) - mean(arriving) for each in (foretold, taken)]
    print(f"\nseconds of packs {pace.seconds}; foretold, then taken:")
    print(f"last end {max(foretold):.1f}, {max(taken):.1f}; mean until a result {until_result}")
    assert max(foretold) == pytest.approx(max(taken), rel=0.25)
    assert until_result[0] == pytest.approx(until_result[1], rel=1 / 3)
