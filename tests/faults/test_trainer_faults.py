"""The trainer dies, hangs, or cannot write: its job goes on from the last checkpoint, or says why it does not."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from sgg_store.errors import StorageFullError
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.local_objects import LocalObjectStore
from sgg_store.objects import Source
from sgg_store.records import CheckpointRecord
from sgg_store.retries import Cause
from worker.child import TRAINER_COMMAND
from worker.embedded import EmbeddedWorker, start_embedded
from worker.supervisor import Supervisor
from worker.testing import Workbench, eventually

MakeBench = Callable[..., Workbench]
STEPS = 60


@contextmanager
def embedded(bench: Workbench, supervisor: Supervisor | None = None) -> Iterator[EmbeddedWorker]:
    worker = start_embedded(bench.settings, bench.database, bench.objects, supervisor)
    try:
        yield worker
    finally:
        worker.stop()


def begin(bench: Workbench, worker: EmbeddedWorker, step: int) -> str:
    job_id = bench.submit_steps(STEPS, 10)
    worker.ring(job_id)
    bench.wait_for_step(job_id, step)
    return job_id


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


def test_a_killed_trainer_is_replaced_and_the_job_goes_on_from_its_checkpoint(make_bench: MakeBench) -> None:
    bench = make_bench()
    with embedded(bench) as worker:
        job_id = begin(bench, worker, 25)
        victim = worker.trainer_pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert_whole(bench, job_id)
        assert worker.trainer_pid != victim
        first, second = bench.attempts(job_id)
        assert (first.state, first.cause) == (AttemptState.FAILED, Cause.CRASHED)
        assert "signal 9" in str(first.detail)
        assert second.start_step >= 20 and second.start_step % 10 == 0


def test_a_stopped_trainer_is_noticed_killed_and_replaced(make_bench: MakeBench) -> None:
    bench = make_bench(stall_seconds=8)
    with embedded(bench) as worker:
        job_id = begin(bench, worker, 15)
        victim = worker.trainer_pid
        assert victim is not None
        os.kill(victim, signal.SIGSTOP)
        eventually(lambda: len(bench.attempts(job_id)) > 1)
        assert not psutil.pid_exists(victim)
        assert "no progress" in str(bench.attempts(job_id)[0].detail)
        assert_whole(bench, job_id)


def test_a_trainer_that_always_dies_at_the_same_step_fails_its_job_with_advice(make_bench: MakeBench) -> None:
    bench = make_bench()
    dying = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('error: the device caught fire')"]
    with embedded(bench, Supervisor(dying)) as worker:
        job_id = bench.submit_steps(STEPS, 10)
        worker.ring(job_id)
        job = bench.wait_for_end(job_id)
        assert (job.status, job.error_code) == (JobStatus.FAILED, "poison_job")
        assert len(bench.attempts(job_id)) == 2
        assert any("the device caught fire" in event.message for event in bench.events(job_id))


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(make_bench: MakeBench) -> None:
    bench = make_bench()
    with embedded(bench) as worker:
        job_id = begin(bench, worker, 35)
        assert worker.trainer_pid is not None
        os.kill(worker.trainer_pid, signal.SIGSTOP)
        with bench.database.read() as session:
            query = session.query(CheckpointRecord).where(CheckpointRecord.job_id == job_id)
            newest, before = query.order_by(CheckpointRecord.step.desc()).limit(2).all()
        key = f"{newest.object_prefix}/state.safetensors"
        content = bytearray(b"".join(bench.objects.open(key)))
        content[len(content) // 2] ^= 1
        bench.objects.put(key, bytes(content), create_only=False)
        os.kill(worker.trainer_pid, signal.SIGKILL)
        assert_whole(bench, job_id)
        assert bench.attempts(job_id)[1].start_step == before.step


def trainer_with_file_limit(size: int) -> list[str]:
    """The trainer's command under a limit on file sizes: writes beyond it fail as they do on a full disk."""
    script = (
        "import os, resource, sys;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", script, *TRAINER_COMMAND]


def test_a_full_disk_during_a_checkpoint_is_told_and_loses_nothing(make_bench: MakeBench) -> None:
    bench = make_bench()
    supervisor = Supervisor(trainer_with_file_limit(50_000))
    with embedded(bench, supervisor) as worker:
        job_id = bench.submit_steps(STEPS, 10)
        worker.ring(job_id)
        eventually(lambda: bench.attempts(job_id) and bench.attempts(job_id)[0].state is not AttemptState.RUNNING)
        assert bench.job(job_id).status is JobStatus.QUEUED
        assert bench.attempts(job_id)[0].cause is Cause.STORAGE
        told = bench.events(job_id)[-1]
        assert told.level == "warn" and "space" in told.message.lower() and "free" in told.message.lower()
        assert bench.steps(job_id) == list(range(1, 11))
        assert worker.trainer_pid is not None
        resource.prlimit(worker.trainer_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        worker.ring(job_id)  # sooner than the dispatcher would
        assert_whole(bench, job_id)


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
