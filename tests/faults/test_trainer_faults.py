"""The trainer dies, hangs, or cannot write: its job goes on from the last checkpoint, or says why it does not."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgg_core.catalogue import Catalogue
from sgg_core.tiny import save_tiny_base
from sgg_store.errors import StorageFullError
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.local_objects import LocalObjectStore
from sgg_store.objects import Source
from sgg_store.retries import Cause
from tests.faults.running import trainers_made_by
from worker.child import spawn
from worker.embedded import EmbeddedWorker, start_embedded
from worker.supervisor import Supervisor
from worker.testing import Workbench, eventually

MakeBench = Callable[..., Workbench]
STEPS = 60
SCARCE_MEMORY = """
import resource
from pathlib import Path
from sgg_core import loaded_bases
from worker import fork_server_process, trainer_process

class Bases(loaded_bases.LoadedBases):
    def take(self, entry, budget):
        base = super().take(entry, budget)
        if len(self.names) > 1:  # as if the memory was used up by them
            raise MemoryError
        return base

class Reporter(trainer_process.RunReporter):
    def report(self, message):
        super().report(message)
        if message.type == "started" and message.batch_size > 100:  # as if others took the memory at this moment
            limit = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() + 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

loaded_bases.LoadedBases = Bases
trainer_process.RunReporter = Reporter
fork_server_process.main()
"""


@pytest.fixture(scope="module", autouse=True)
def scarce_memory() -> Iterator[None]:
    """Trainers whose memory suffices for one base model, and for no large batch."""
    with trainers_made_by(SCARCE_MEMORY):
        yield


@contextmanager
def embedded(bench: Workbench, supervisor: Supervisor | None = None) -> Iterator[EmbeddedWorker]:
    worker = start_embedded(bench.settings, bench.database, bench.objects, supervisor)
    try:
        yield worker
    finally:
        worker.stop()


def assert_whole(bench: Workbench, job_id: str) -> None:
    """The job succeeded once, and its story has neither holes nor doubles."""
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert bench.steps(job_id) == list(range(1, STEPS + 1))
    events = bench.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    told = [event.data["step"] for event in events if event.type == "metrics"]
    assert told == list(range(1, STEPS + 1))
    attempts = bench.attempts(job_id)
    assert [attempt.state for attempt in attempts].count(AttemptState.SUCCEEDED) == 1
    assert attempts[-1].state is AttemptState.SUCCEEDED
    assert len({attempt.token for attempt in attempts}) == len(attempts)


def test_a_trainer_that_always_dies_at_the_same_step_fails_its_job_with_advice(make_bench: MakeBench) -> None:
    bench = make_bench()
    dying = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('error: the device caught fire')"]
    with embedded(bench, Supervisor(lambda: spawn(dying))) as worker:
        job_id = bench.submit_steps(STEPS, 10)
        worker.ring(job_id)
        job = bench.wait_for_end(job_id)
        assert (job.status, job.error_code) == (JobStatus.FAILED, "poison_job")
        assert len(bench.attempts(job_id)) == 2
        assert any("the device caught fire" in event.message for event in bench.events(job_id))


def test_a_job_that_needs_more_memory_than_there_is_fails_once_and_the_next_one_runs(make_bench: MakeBench) -> None:
    bench = make_bench()
    rows = [{"prompt": f"Tell story {number}. ", "completion": "and so on " * 95} for number in range(128)]
    too_much = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with embedded(bench) as worker:
        large = bench.submit(too_much, optimization={"max_steps": 2, "batch_size": 128}, task={"max_tokens": 1024})
        small = bench.submit_steps(STEPS, 10)
        worker.ring(large)
        job = bench.wait_for_end(large)
        assert (job.status, job.error_code, job.current_attempt) == (JobStatus.FAILED, "out_of_memory", 1)
        assert "batch_size" in str(job.error_message)
        assert_whole(bench, small)


def test_a_job_that_lacks_memory_beside_another_base_model_is_tried_again_alone(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench()
    other = save_tiny_base(tmp_path / "other", "encoder")
    Catalogue.load(bench.settings.data_dir).add(other)
    short = {"max_steps": 2, "batch_size": 4}
    with embedded(bench) as worker:
        first, second = bench.submit(optimization=short), bench.submit(base_model=other.name, optimization=short)
        worker.ring(first)
        assert [bench.wait_for_end(job_id).status for job_id in (first, second)] == [JobStatus.SUCCEEDED] * 2
    assert [attempt.cause for attempt in bench.attempts(second)] == [Cause.CRASHED, None]
    assert any("beside other jobs or base models" in event.message for event in bench.events(second))


class FillingObjectStore(LocalObjectStore):
    """A real store whose disk is full for checkpoints of one step until `full` is unset."""

    full = "step-00000030"

    def put(self, key: str, source: Source, *, create_only: bool = True) -> None:
        if self.full and self.full in key:
            raise StorageFullError("No space is left in the object store.", "Free some space.")
        super().put(key, source, create_only=create_only)


def test_a_full_object_store_keeps_the_checkpoints_that_are_there(make_bench: MakeBench) -> None:
    bench = make_bench()
    objects = FillingObjectStore(bench.settings.data_dir / "objects")
    bench.objects = objects
    with embedded(bench) as worker:
        job_id = bench.submit_steps(STEPS, 10)
        worker.ring(job_id)
        eventually(lambda: bench.attempts(job_id) and bench.attempts(job_id)[0].state is not AttemptState.RUNNING)
        assert bench.attempts(job_id)[0].cause is Cause.STORAGE
        assert "Free some space" in bench.events(job_id)[-1].message
        objects.full = ""
        worker.ring(job_id)
        assert_whole(bench, job_id)
        assert bench.attempts(job_id)[1].start_step == 20
