"""Pausing and resuming through the real worker and trainer: exact, at the next step, and without holding the slot."""

import io
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.files import Files
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.records import CheckpointRecord
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import TWO_LABELS, Workbench

STEPS = 40
SOURCE = b"".join(
    b'{"text": "source %d %s", "label": "%s"}\n' % (number, word, label)
    for number in range(5)
    for word, label in ((b"warm and sunny", b"yes"), (b"cold and wet", b"no"))
)


@dataclass
class Service:
    bench: Workbench
    worker: EmbeddedWorker

    def begin(self, **spec: Any) -> str:
        job_id = self.bench.submit(**spec)
        self.worker.ring(job_id)
        return job_id

    def pause_at(self, job_id: str, step: int) -> int:
        """Pause the running job once it has done `step` steps; gives the step after which it stopped."""
        self.bench.wait_for_step(job_id, step)
        self.bench.pause(job_id)
        return self.bench.wait_for_pause(job_id).step

    def resume(self, job_id: str) -> None:
        self.bench.resume(job_id)
        self.worker.ring(job_id)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "tiny"), flush_seconds=0.02)
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        yield Service(bench, worker)
        worker.stop()
        bench.close()


def adapter_of(bench: Workbench, job_id: str) -> dict[str, bytes]:
    """The files of the job's adapter that hold weights."""
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    with bench.database.read() as session:
        key = Files(session).get(DEFAULT_PROJECT_ID, job.result_file_ids[1]).object_key
    with tarfile.open(fileobj=io.BytesIO(b"".join(bench.objects.open(key)))) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return {name: content for name, content in found.items() if name.endswith(".safetensors")}


def figures_of(bench: Workbench, job_id: str) -> list[dict[str, Any]]:
    return [message.model_dump(exclude={"seconds"}) for message in bench.metrics(job_id)]


@pytest.mark.parametrize(
    "guidance",
    [
        {"alignment": 0.2, "clip_z": 1.5},
        {"variant": "exact", "alignment": 0.2, "every": 3},
        {"variant": "momentum", "direction": 0.5},
        {"reference": "split", "source_weight": "fixed"},
    ],
    ids=lambda guidance: "-".join(guidance),
)
def test_a_job_that_was_paused_ends_bit_for_bit_like_one_that_was_not(
    service: Service, guidance: dict[str, Any]
) -> None:
    spec: dict[str, Any] = {
        "validation": TWO_LABELS,
        "sources": (SOURCE,),
        "method": "sgg",
        "seed": 3,
        "lora": {"dropout": 0.2},
        "guidance": guidance,
        "optimization": {"epochs": 1000, "max_steps": STEPS, "batch_size": 4},
        "evaluation": {"keep": "best", "every_steps": 7},
        "checkpoint": {"every_steps": 1000},
    }
    straight = service.begin(**spec)
    expected = adapter_of(service.bench, straight)

    paused = service.begin(**spec)
    stops = [service.pause_at(paused, 5)]
    service.resume(paused)
    stops.append(service.pause_at(paused, stops[0] + 3))
    service.resume(paused)
    assert adapter_of(service.bench, paused) == expected
    assert figures_of(service.bench, paused) == figures_of(service.bench, straight)
    assert 5 <= stops[0] < stops[1] < STEPS
    attempts = service.bench.attempts(paused)
    assert [attempt.state for attempt in attempts] == [AttemptState.PAUSED, AttemptState.PAUSED, AttemptState.SUCCEEDED]
    assert [attempt.start_step for attempt in attempts] == [0, *stops]


def one_byte_changes(bench: Workbench, checkpoint: CheckpointRecord) -> None:
    key = f"{checkpoint.object_prefix}/state.safetensors"
    content = bytearray(b"".join(bench.objects.open(key)))
    content[len(content) // 2] ^= 1
    bench.objects.put(key, bytes(content), create_only=False)


def it_becomes_another_run_s(bench: Workbench, checkpoint: CheckpointRecord) -> None:
    with bench.database.begin() as session:
        query = session.query(CheckpointRecord).where(CheckpointRecord.job_id != checkpoint.job_id)
        other = query.order_by(CheckpointRecord.created_at.desc()).limit(1).one()
        own = session.get_one(CheckpointRecord, checkpoint.id)
        own.object_prefix, own.manifest = other.object_prefix, other.manifest


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (one_byte_changes, "it is damaged"),
        (it_becomes_another_run_s, "it was written by another version, or with another base model"),
    ],
)
def test_an_event_says_that_a_checkpoint_is_set_aside_and_from_where_the_job_really_starts(
    service: Service, happens: Callable[[Workbench, CheckpointRecord], None], reason: str
) -> None:
    bench = service.bench
    steps = {"epochs": 1000, "max_steps": STEPS, "batch_size": 4}
    paused = service.begin(optimization=steps, checkpoint={"every_steps": 1000})  # none but that of the pause
    step = service.pause_at(paused, 5)
    bench.wait_for_end(service.begin(seed=1, optimization={"max_steps": 4}, checkpoint={"every_steps": 2}))
    with bench.database.read() as session:
        [checkpoint] = session.query(CheckpointRecord).where(CheckpointRecord.job_id == paused)
    happens(bench, checkpoint)
    service.resume(paused)
    assert bench.wait_for_end(paused).status is JobStatus.SUCCEEDED
    events = bench.events(paused)
    starts = [(event.level, event.message) for event in events if "Training starts" in event.message]
    assert starts[1:] == [
        ("info", f"Training starts from step {step}."),
        ("warn", f"The checkpoint of step {step} cannot be used: {reason}. Training starts from the beginning."),
    ]
    assert [event.data["first_step"] for event in events if "first_step" in event.data] == [1, 1]


def test_a_paused_job_holds_no_slot_and_the_trainer_stays_warm(service: Service) -> None:
    trainer = service.worker.trainer_pid
    resting = service.begin(optimization={"epochs": 1000, "max_steps": 100_000, "batch_size": 4})
    service.pause_at(resting, 5)
    after = service.begin(optimization={"max_steps": 2})
    assert service.bench.wait_for_end(after).status is JobStatus.SUCCEEDED
    assert service.bench.job(resting).status is JobStatus.PAUSED
    assert service.worker.trainer_pid == trainer
    service.bench.cancel(resting)
    assert service.bench.job(resting).status is JobStatus.CANCELLED


def test_a_job_cancelled_while_it_stops_for_a_pause_is_cancelled(service: Service) -> None:
    job_id = service.begin(optimization={"epochs": 1000, "max_steps": 100_000, "batch_size": 4})
    service.bench.wait_for_step(job_id, 5)
    service.bench.pause(job_id)
    service.bench.cancel(job_id)
    job = service.bench.wait_for_end(job_id)
    assert job.status is JobStatus.CANCELLED
    last = service.bench.events(job_id)[-1]
    assert last.data["last_checkpoint"] == job.checkpoint_name(job.step)


def test_a_job_paused_between_steps_of_its_seeds_goes_on_with_each_where_it_was(service: Service) -> None:
    """Also after a crash, from when on they are trained one after another."""
    seeds: dict[str, Any] = {
        "optimization": {"seeds": 2, "epochs": 1000, "max_steps": STEPS, "batch_size": 4},
        "checkpoint": {"every_steps": 5},
    }
    bench, whole = service.bench, service.begin(**seeds)
    expected = adapter_of(bench, whole)
    assert bench.steps(whole) == list(range(1, 2 * STEPS + 1))
    paused = service.begin(**seeds)
    step = service.pause_at(paused, 9)
    assert step % 2 == 0 and bench.steps(paused) == list(range(1, step + 1))
    service.resume(paused)
    assert adapter_of(bench, paused) == expected
    assert figures_of(bench, paused) == figures_of(bench, whole)
    killed = service.begin(**seeds)
    bench.wait_for_step(killed, 25)
    assert service.worker.trainer_pid is not None
    os.kill(service.worker.trainer_pid, signal.SIGKILL)
    assert adapter_of(bench, killed).keys() == expected.keys()
    assert bench.steps(killed) == list(range(1, 2 * STEPS + 1))
    told = [event.message for event in bench.events(killed)]
    assert "Seeds 0, 1 at once, of 2." in told and "Seed 0, of 2." in told and "Seed 1, of 2." in told
