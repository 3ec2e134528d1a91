"""The whole embedded process ends, gently or not, and is started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from worker.testing import Workbench, eventually

SERVICE = """
import signal, threading
from sgg_store.database import Database
from sgg_store.objects import open_object_store
from worker.embedded import start_embedded
from worker.settings import WorkerSettings

ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
settings = WorkerSettings()
database = Database(settings.database_url)
worker = start_embedded(settings, database, open_object_store(settings.object_store_url))
print(worker.trainer_pid, flush=True)
ended.wait()
worker.stop()
"""
STEPS = 60


@contextmanager
def service(bench: Workbench) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The embedded worker in a process of its own, and its trainer's process id."""
    settings = {
        "SGG_DATA_DIR": str(bench.settings.data_dir),
        "SGG_LEASE_SECONDS": "60",  # nobody has time to wait for it
        "SGG_FLUSH_SECONDS": "0.1",
        "SGG_DISPATCH_SECONDS": "0.1",
    }
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("ending", "state", "cause"),
    [
        (signal.SIGKILL, AttemptState.LOST, Cause.LOST),
        (signal.SIGTERM, AttemptState.PREEMPTED, Cause.PREEMPTED),
    ],
)
def test_a_running_job_resumes_by_itself_and_its_story_is_whole(
    make_bench: Callable[..., Workbench], ending: signal.Signals, state: AttemptState, cause: Cause
) -> None:
    bench = make_bench()
    running = bench.submit_steps(STEPS, 10)
    waiting = bench.submit_steps(3, 10)
    with service(bench) as (process, trainer):
        reached = bench.wait_for_step(running, 25).step
        process.send_signal(ending)
        process.wait(10)
        eventually(lambda: not psutil.pid_exists(trainer) or psutil.Process(trainer).status() == psutil.STATUS_ZOMBIE)
    assert bench.job(running).status is (JobStatus.RUNNING if ending == signal.SIGKILL else JobStatus.QUEUED)

    with service(bench):
        for job_id in (running, waiting):
            assert bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED
    first, second = bench.attempts(running)
    assert (first.state, first.cause, second.state) == (state, cause, AttemptState.SUCCEEDED)
    assert second.start_step >= (reached // 10) * 10
    assert bench.steps(running) == list(range(1, STEPS + 1))
    events = bench.events(running)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data["step"] for event in events if event.type == "metrics"] == list(range(1, STEPS + 1))
