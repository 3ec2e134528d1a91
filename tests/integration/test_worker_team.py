"""A job that several processes of the trainer compute together: it outlives each of them, and they outlive nobody."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import Workbench, eventually

STEPS, SAVE_EVERY = 150, 5


@dataclass
class Service:
    bench: Workbench
    worker: EmbeddedWorker

    def trainer(self) -> psutil.Process:
        """The trainer, once there is one."""
        return psutil.Process(eventually(lambda: self.worker.trainer_pid))

    def running(self, job_id: str, attempt: int) -> psutil.Process:
        """The trainer, once it has saved a checkpoint in an attempt of this number."""

        def begun() -> bool:
            running = [each for each in self.bench.attempts(job_id) if each.state is AttemptState.RUNNING]
            return [each.number for each in running] == [attempt] and bool(self.helpers())

        eventually(begun)
        self.bench.wait_for_step(job_id, self.bench.job(job_id).step + 2 * SAVE_EVERY)
        return self.trainer()

    def helpers(self) -> list[psutil.Process]:
        """The trainer's helpers."""
        with suppress(psutil.NoSuchProcess):
            return [child for child in self.trainer().children() if child.name() == "sgg-helper"]
        return []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("team")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "tiny"), flush_seconds=0.02)
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        yield Service(bench, worker)
        worker.stop()
        bench.close()


def test_a_job_outlives_a_killed_helper_and_a_killed_trainer_whose_helper_dies_with_it(service: Service) -> None:
    bench = service.bench
    optimization = {"epochs": 1000, "max_steps": STEPS, "batch_size": 4}
    job_id = bench.submit(optimization=optimization, checkpoint={"every_steps": SAVE_EVERY}, resources={"gpus": 2})
    service.worker.ring(job_id)
    trainer = service.running(job_id, attempt=1)
    (first,) = service.helpers()
    first.kill()
    assert service.running(job_id, attempt=2) == trainer  # which was not at fault
    (second,) = service.helpers()
    trainer.kill()
    assert second.wait(10) is None or not second.is_running()
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert bench.steps(job_id) == list(range(1, STEPS + 1))
    attempts = bench.attempts(job_id)
    assert [attempt.cause for attempt in attempts[:2]] == [Cause.CRASHED] * 2 and len(attempts) == 3
    told = [event.message for event in bench.events(job_id)]
    assert any("2 processes on the CPU share every batch" in message for message in told)
    assert any("ended with signal 9" in message for message in told)
    assert service.helpers() == []
