"""A worker that stops: in a file of its own, since a process runs one worker at a time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from worker import app
from worker.child import spawn
from worker.embedded import start_embedded
from worker.errors import PartsEndedError
from worker.supervisor import Supervisor
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


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Puts back those of the tests' own process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signal_handlers")
def test_a_worker_one_of_whose_parts_has_ended_stops_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.05)
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"))
    idle = Supervisor(lambda: spawn([sys.executable, "-c", "input()"]))
    worker = app.Worker(bench.settings, bench.database, bench.objects, "w", idle)
    trials = worker.trials
    assert trials is not None
    with pytest.raises(PartsEndedError, match="The worker's trials stopped unexpectedly"):
        worker.run(on_started=trials.stop)
    assert "reaper" in worker.dead_parts()
    bench.close()
