"""One worker that trains several jobs at once: each ends as it would alone, and one's misfortune is no other's."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.examples import parse_examples
from sgg_core.reporting import AnyMessage, Control
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import save_tiny_base
from sgg_core.trainer import train
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.records import AttemptRecord
from sgg_store.retries import Cause
from tests.adapters import adapter_of
from tests.mixtures import save_tiny_mixture
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import TWO_LABELS, Workbench, eventually

AT_ONCE = 3


@dataclass
class Service:
    bench: Workbench
    worker: EmbeddedWorker

    def submit(self, steps: int = 40, **spec: Any) -> str:
        """Queue a job of so many steps."""
        optimization = {"epochs": 1000, "max_steps": steps, "batch_size": 4}
        return self.bench.submit(optimization=optimization, checkpoint={"every_steps": 10}, **spec)

    def run(self, *job_ids: str) -> None:
        """Ring for them, and wait until all are finished."""
        for job_id in job_ids:
            self.worker.ring(job_id)
        for job_id in job_ids:
            self.bench.wait_for_end(job_id)

    def last_attempt(self, job_id: str) -> AttemptRecord:
        """How the job ended."""
        return self.bench.attempts(job_id)[-1]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "tiny"), jobs_at_once=AT_ONCE)
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        yield Service(bench, worker)
        worker.stop()
        bench.close()


def overlap(one: AttemptRecord, other: AttemptRecord) -> bool:
    """Whether two attempts ran at the same time."""
    assert one.ended_at is not None and other.ended_at is not None
    return one.started_at < other.ended_at and other.started_at < one.ended_at


class Silent:
    """A Reporter that hears nothing."""

    def report(self, message: AnyMessage) -> None:
        pass

    def control(self) -> Control:
        return "continue"


def test_jobs_that_are_trained_together_end_as_each_would_alone(service: Service, tmp_path: Path) -> None:
    bench = service.bench
    specs: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "lora": {"rank": 2}}, {"seed": 3, "method": "supervised"}]
    job_ids = [service.submit(**spec) for spec in [*specs, {"seed": 4}]]
    service.run(*job_ids)
    attempts = [service.last_attempt(job_id) for job_id in job_ids]
    assert [attempt.state for attempt in attempts] == [AttemptState.SUCCEEDED] * 4
    assert all(overlap(attempts[0], other) for other in attempts[1:AT_ONCE])
    assert all(bench.steps(job_id) == list(range(1, 41)) for job_id in job_ids)
    together = sorted(attempt.started_at for attempt in attempts)
    assert together[AT_ONCE] >= min(attempt.ended_at or 0 for attempt in attempts), "the pack was full"
    base = load_base(bench.base_model)
    training = parse_examples(TWO_LABELS, "examples.jsonl")
    for number, job_id in enumerate(job_ids):
        spec = TrainingSpec.model_validate(bench.job(job_id).spec)
        train(spec, base, training, output=tmp_path / str(number), reporter=Silent())
        alone = load((tmp_path / str(number) / "adapter_model.safetensors").read_bytes())
        found = adapter_of(bench, job_id)
        for name, weights in alone.items():
            torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4)


def test_a_job_that_has_to_be_alone_is_neither_joined_nor_overtaken_and_its_result_is_the_same_to_the_last_bit(
    service: Service,
) -> None:
    wanted: dict[str, Any] = {"seed": 5, "resources": {"deterministic": True}}
    first = service.submit(**wanted)
    service.run(first)
    before = [service.submit() for _ in range(2)]
    alone = service.submit(**wanted)
    after = service.submit()
    service.run(*before, alone, after)
    ends = {job_id: service.last_attempt(job_id) for job_id in (*before, alone, after)}
    assert {attempt.state for attempt in ends.values()} == {AttemptState.SUCCEEDED}
    assert overlap(ends[before[0]], ends[before[1]])
    assert not any(overlap(ends[alone], ends[other]) for other in (*before, after))
    assert ends[alone].started_at < ends[after].started_at
    found, expected = (adapter_of(service.bench, job_id) for job_id in (alone, first))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_job_that_is_cancelled_leaves_the_others_alone(service: Service) -> None:
    bench, pid = service.bench, service.worker.trainer_pid
    cancelled, other = service.submit(2000), service.submit(200)
    for job_id in (cancelled, other):
        service.worker.ring(job_id)
        bench.wait_for_step(job_id, 1)
    bench.cancel(cancelled)
    assert bench.wait_for_end(cancelled).status is JobStatus.CANCELLED
    assert bench.steps(cancelled)[-1] < 2000
    assert bench.wait_for_end(other).status is JobStatus.SUCCEEDED
    assert bench.steps(other) == list(range(1, 201))
    assert service.worker.trainer_pid == pid
    assert overlap(service.last_attempt(cancelled), service.last_attempt(other))


def test_short_jobs_pass_by_long_ones_and_a_project_that_comes_late_is_served_first(service: Service) -> None:
    """All places are taken by one project's long jobs, more of its jobs wait, and one of them makes room."""
    bench = service.bench
    long_ones = [service.submit(2000, project_id="proj-a") for _ in range(AT_ONCE)]
    for job_id in long_ones:
        service.worker.ring(job_id)
        bench.wait_for_step(job_id, 1)
    short_ones = [service.submit(5, project_id="proj-a") for _ in range(3)]
    late = service.submit(5, project_id="proj-b")
    bench.cancel(long_ones[0])
    service.run(*short_ones, late)
    took = [service.last_attempt(job_id) for job_id in (late, *short_ones)]
    assert [attempt.state for attempt in took] == [AttemptState.SUCCEEDED] * 4
    assert sorted(took, key=lambda attempt: attempt.started_at) == took, "the late one first, the others in their order"
    for job_id in long_ones[1:]:
        assert bench.job(job_id).status is JobStatus.RUNNING
        bench.cancel(job_id)
        assert bench.wait_for_end(job_id).status is JobStatus.CANCELLED


def test_after_the_trainers_death_each_goes_on_alone_from_its_checkpoint(service: Service) -> None:
    bench = service.bench
    job_ids = [service.submit(120) for _ in range(2)]
    for job_id in job_ids:
        service.worker.ring(job_id)
        bench.wait_for_step(job_id, 15)
    victim = service.worker.trainer_pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: all(len(bench.attempts(job_id)) == 2 for job_id in job_ids))
    for job_id in job_ids:
        assert bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED
        first, second = bench.attempts(job_id)
        assert (first.cause, second.start_step >= 10) == (Cause.CRASHED, True)
        assert bench.steps(job_id) == list(range(1, 121))
    assert not overlap(*(service.last_attempt(job_id) for job_id in job_ids))


def test_jobs_on_a_mixture_of_experts_do_not_fail_where_others_would_share_passes(
    service: Service, tmp_path: Path
) -> None:
    """Those that came to share them before anybody knew are given back, or trained when the one before has ended."""
    bench, pid = service.bench, service.worker.trainer_pid
    mixture = save_tiny_mixture(tmp_path / "mixture")
    Catalogue.load(bench.settings.catalogue_dir).add(mixture)
    job_ids = [service.submit(10, base_model=mixture.name) for _ in range(AT_ONCE)]
    service.run(*job_ids)
    attempts = [bench.attempts(job_id) for job_id in job_ids]
    assert [each[-1].state for each in attempts] == [AttemptState.SUCCEEDED] * AT_ONCE
    assert all(bench.steps(job_id) == list(range(1, 11)) for job_id in job_ids)
    assert {earlier.cause for each in attempts for earlier in each[:-1]} == {Cause.PREEMPTED}
    assert service.worker.trainer_pid == pid
