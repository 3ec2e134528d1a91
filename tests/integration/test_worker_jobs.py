"""One embedded worker with a real trainer, SQLite and local objects; jobs on a tiny base model."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import update

from sgg_core.report import ANSWERS, CARD, PAGE, REPORT
from sgg_core.tiny import save_tiny_base
from sgg_store import ids
from sgg_store.checkpoints import Checkpoints
from sgg_store.errors import LeaseLostError
from sgg_store.files import Files
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.objects import file_key
from sgg_store.queue import QUEUE_JOBS, TASK_RUN_JOB, make_celery
from sgg_store.records import CheckpointRecord, JobRecord
from sgg_store.reports import key_of_report
from sgg_store.retries import Cause
from worker.embedded import EmbeddedWorker, start_embedded
from worker.endings import Success
from worker.publish import ResultFile
from worker.testing import TWO_LABELS, Workbench, eventually


@dataclass
class Service:
    bench: Workbench
    worker: EmbeddedWorker


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "tiny"))
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        yield Service(bench, worker)
        worker.stop()
        bench.close()


def content_of(bench: Workbench, file_id: str) -> bytes:
    with bench.database.read() as session:
        file = Files(session).get(DEFAULT_PROJECT_ID, file_id)
    content = b"".join(bench.objects.open(file.object_key))
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
    assert file.purpose == "fine-tune-results"
    return content


def checkpoints_of(bench: Workbench, job_id: str) -> list[CheckpointRecord]:
    with bench.database.read() as session:
        query = session.query(CheckpointRecord).where(CheckpointRecord.job_id == job_id)
        return query.order_by(CheckpointRecord.step).all()


def test_peft_loads_the_files_of_every_checkpoint(service: Service, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    from sgg_core.base_loading import load_base

    bench = service.bench
    job_id = bench.submit(optimization={"max_steps": 4, "batch_size": 4}, checkpoint={"every_steps": 2})
    service.worker.ring(job_id)
    assert bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED
    saved = checkpoints_of(bench, job_id)
    with bench.database.read() as session:
        files = Checkpoints(session).files_of([checkpoint.id for checkpoint in saved])
    seen = []
    for checkpoint in saved:
        directory = tmp_path / str(checkpoint.step)
        directory.mkdir()
        for file in files[checkpoint.id]:
            (directory / file.filename).write_bytes(content_of(bench, file.id))
        weights = load_file(directory / "adapter_model.safetensors")
        loaded = PeftModel.from_pretrained(load_base(bench.base_model).model, directory).state_dict()
        for name, weight in weights.items():
            assert loaded[name.replace(".weight", ".default.weight")].equal(weight)
        seen.append(weights)
    assert [checkpoint.step for checkpoint in saved] == [2, 4]
    assert any(not seen[0][name].equal(seen[1][name]) for name in seen[0])


def test_a_job_ends_with_metrics_and_a_bundle_that_verifies(service: Service) -> None:
    bench = service.bench
    spec = {"optimization": {"epochs": 3, "batch_size": 4}, "checkpoint": {"every_steps": 5}}
    spec["evaluation"] = {"baselines": ["in_context"]}
    job_id = bench.submit(validation=TWO_LABELS, retention=TWO_LABELS, **spec)
    service.worker.ring(job_id)
    job = bench.wait_for_end(job_id)

    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert job.fine_tuned_model is not None and job.fine_tuned_model.startswith("ft:tiny-causal:")
    assert job.trained_tokens is not None and job.trained_tokens > 0
    assert (job.step, job.total_steps) == (12, 12)
    assert bench.steps(job_id) == list(range(1, 13))

    table, bundle = (content_of(bench, file_id) for file_id in job.result_file_ids)
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert all(float(row["train_loss"]) > 0 for row in rows) and float(rows[-1]["valid_loss"]) > 0
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(files["sgg.json"])
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in manifest["files"]} == manifest["files"]
    final = json.loads(files["report.json"])["final"]
    assert job.final_figures == {name: figure for name, figure in final.items() if figure is not None}
    assert job.final_figures["valid_loss"] == pytest.approx(float(rows[-1]["valid_loss"]))
    assert "adapter_model.safetensors" in files and json.loads(files["verification.json"])["passed"]
    with bench.database.read() as session:
        keys = {name: key_of_report(session, job, name) for name in (REPORT, CARD, PAGE, ANSWERS)}
    assert all(b"".join(bench.objects.open(key)) == files[name] for name, key in keys.items() if key is not None)
    report = json.loads(files[REPORT])
    assert None not in keys.values() and report["retention"]["measure"] == "accuracy"
    assert [one["name"] for one in report["baselines"]] == ["zero_shot", "in_context"]

    events = bench.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].message.startswith("The job succeeded")
    metrics_events = [event for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert [event.data["step"] for event in metrics_events] == list(range(1, 13))

    assert [checkpoint.step for checkpoint in checkpoints_of(bench, job_id)][:2] == [5, 10]
    assert [attempt.state for attempt in bench.attempts(job_id)] == [AttemptState.SUCCEEDED]


def test_a_job_that_keeps_its_last_checkpoints_has_no_others_and_no_objects_of_others(service: Service) -> None:
    spec = {"optimization": {"max_steps": 12, "batch_size": 4, "epochs": 10}}
    job_id = service.bench.submit(**spec, checkpoint={"every_steps": 2, "keep_last": 2})
    service.worker.ring(job_id)
    assert service.bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED
    kept = checkpoints_of(service.bench, job_id)
    assert [checkpoint.step for checkpoint in kept] == [10, 12]
    folders = {found.key.rpartition("/")[0] for found in service.bench.objects.list(f"jobs/{job_id}")}
    assert {folder for folder in folders if "checkpoints" in folder} == {each.object_prefix for each in kept}


def test_nothing_of_a_finished_job_stays_in_the_scratch_directory(service: Service) -> None:
    job_id = service.bench.submit_steps(2, 10)
    service.worker.ring(job_id)
    service.bench.wait_for_end(job_id)
    eventually(lambda: not list(service.bench.settings.scratch_dir.glob(f"*/{job_id}*")))


def test_a_running_job_stops_at_the_next_step_and_names_its_last_checkpoint(service: Service) -> None:
    trainer = service.worker.trainer_pid
    job_id = service.bench.submit_steps(100_000, 10)
    service.worker.ring(job_id)
    service.bench.wait_for_step(job_id, 15)
    service.bench.cancel(job_id)
    job = service.bench.wait_for_end(job_id)
    last_checkpoint = checkpoints_of(service.bench, job_id)[-1].step
    assert job.status is JobStatus.CANCELLED
    assert last_checkpoint == service.bench.steps(job_id)[-1]  # saved when it stopped
    assert f"ckpt-step-{last_checkpoint}" in service.bench.events(job_id)[-1].message
    assert [attempt.state for attempt in service.bench.attempts(job_id)] == [AttemptState.CANCELLED]
    assert job.result_file_ids == []
    assert service.worker.trainer_pid == trainer  # still warm for the next job


def test_a_job_cancelled_in_the_queue_never_begins(service: Service) -> None:
    job_id = service.bench.submit_steps(5, 5)
    service.bench.cancel(job_id)
    service.worker.ring(job_id)
    after = service.bench.submit_steps(1, 5)
    service.worker.ring(after)
    service.bench.wait_for_end(after)
    assert service.bench.job(job_id).status is JobStatus.CANCELLED
    assert service.bench.attempts(job_id) == []


def test_fifty_doorbells_make_one_attempt(service: Service) -> None:
    job_id = service.bench.submit_steps(5, 5)
    for _ in range(50):
        service.worker.ring(job_id)
    service.bench.wait_for_end(job_id)
    service.worker.ring(job_id)
    after = service.bench.submit_steps(1, 5)
    service.worker.ring(after)
    service.bench.wait_for_end(after)
    assert len(service.bench.attempts(job_id)) == 1


def test_a_lost_doorbell_is_rung_again(service: Service) -> None:
    job_id = service.bench.submit_steps(1, 5)  # nobody rings
    assert service.bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    "doorbell", [[], ["ftjob-0123456789abcdef01234567"], ["../../etc"], [None], [{"id": 1}], ["ftjob-1", 2], [7]]
)
def test_doorbells_that_name_no_job_change_nothing(service: Service, doorbell: list[object]) -> None:
    celery = make_celery(service.bench.settings)
    celery.send_task(TASK_RUN_JOB, args=doorbell, queue=QUEUE_JOBS)
    celery.send_task("no.such.task", args=doorbell, queue=QUEUE_JOBS)
    celery.send_task(TASK_RUN_JOB, kwargs={"job_id": "x"}, queue=QUEUE_JOBS)
    with celery.connection_for_write() as connection:
        connection.default_channel.basic_publish(
            {"body": "not json", "content-type": "application/json", "content-encoding": "utf-8", "headers": {},
             "properties": {"delivery_info": {}, "delivery_tag": f"garbage-{doorbell}"}},
            exchange="", routing_key=QUEUE_JOBS,
        )  # fmt: skip
    job_id = service.bench.submit_steps(1, 5)
    service.worker.ring(job_id)
    assert service.bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(("part", "name"), [("training", "examples.jsonl"), ("validation", "validation.jsonl")])
def test_a_bad_file_fails_the_job_with_its_lines_and_leaves_the_trainer_alone(
    service: Service, part: str, name: str
) -> None:
    trainer = service.worker.trainer_pid
    job_id = service.bench.submit(**{part: b'{"text": "a", "label": "b"}\n{"text": "c"}\n'})
    service.worker.ring(job_id)
    job = service.bench.wait_for_end(job_id)
    assert (job.status, job.error_code, job.error_param) == (JobStatus.FAILED, f"invalid_{part}_file", f"{part}_file")
    assert job.error_message is not None and name in job.error_message and "line 2" in job.error_message
    assert service.worker.trainer_pid == trainer


def test_a_base_model_that_left_the_catalogue_fails_the_job(service: Service) -> None:
    job_id = service.bench.submit(base_model="tiny-causa")
    service.worker.ring(job_id)
    job = service.bench.wait_for_end(job_id)
    assert (job.error_code, job.error_param) == ("model_not_found", "model")
    assert job.error_message is not None and "tiny-causal" in job.error_message


def test_a_file_whose_bytes_are_gone_fails_the_job(service: Service) -> None:
    job_id = service.bench.submit_steps(1, 5)
    service.bench.objects.delete(file_key(service.bench.job(job_id).training_file_id))
    service.worker.ring(job_id)
    job = service.bench.wait_for_end(job_id)
    assert job.error_code == "file_not_found"
    assert job.error_message is not None and "Upload the file again" in job.error_message


def test_a_file_whose_bytes_have_changed_fails_the_job(service: Service) -> None:
    job_id = service.bench.submit_steps(1, 5)
    key = file_key(service.bench.job(job_id).training_file_id)
    service.bench.objects.put(key, TWO_LABELS.replace(b"good", b"evil"), create_only=False)
    service.worker.ring(job_id)
    job = service.bench.wait_for_end(job_id)
    assert job.error_code == "file_not_found"
    assert job.error_message is not None and "have changed" in job.error_message


def test_a_job_whose_attempt_finds_no_place_on_the_disk_goes_back_at_once(service: Service) -> None:
    bench = service.bench
    scratch = bench.settings.scratch_dir
    away = scratch.rename(scratch.with_name("away"))
    job_id = bench.submit_steps(2, 2)
    service.worker.ring(job_id)
    (attempt,) = eventually(lambda: [one for one in bench.attempts(job_id) if one.state is not AttemptState.RUNNING])
    assert (attempt.state, attempt.cause) == (AttemptState.FAILED, Cause.STORAGE)  # and no lease had to run out
    away.rename(scratch)
    service.worker.ring(job_id)
    assert bench.wait_for_end(job_id).status is JobStatus.SUCCEEDED


def test_a_job_whose_ending_cannot_be_written_fails_at_once_and_says_so(service: Service) -> None:
    bench = service.bench
    earlier = bench.submit_steps(2, 2)
    service.worker.ring(earlier)
    bench.wait_for_end(earlier)
    job_id = bench.submit_steps(2, 2)
    name = bench.job(job_id).model_name
    with bench.database.begin() as session:
        session.execute(update(JobRecord).where(JobRecord.id == earlier).values(fine_tuned_model=name))
    service.worker.ring(job_id)
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "internal_error")
    assert [attempt.state for attempt in bench.attempts(job_id)] == [AttemptState.FAILED]
    later = bench.submit_steps(2, 2)
    service.worker.ring(later)
    assert bench.wait_for_end(later).status is JobStatus.SUCCEEDED


def test_a_success_that_was_written_already_is_a_lost_lease(service: Service) -> None:
    """As when the database restarts while it commits, and its answer is lost."""
    bench = service.bench
    job_id = bench.submit_steps(2, 2)
    with bench.database.begin() as session:
        claimed = Leases(session, 60).claim(job_id, "w")
    assert claimed is not None
    facts = {"filename": "adapter.tar.gz", "bytes": 1, "sha256": "0" * 64, "object_key": "jobs/x/adapter.tar.gz"}
    file = ResultFile(file_id=ids.new_id("file-"), **facts)
    success = Success(claimed.model_name, 1, (file,), {})
    with bench.database.begin() as session:
        success.write(session, claimed.lease)
    with pytest.raises(LeaseLostError), bench.database.begin() as session:
        success.write(session, claimed.lease)


def test_no_event_follows_the_last_one_of_a_finished_job(service: Service, tmp_path: Path) -> None:
    job_id = service.bench.submit_steps(3, 1)
    service.worker.ring(job_id)
    service.bench.wait_for_end(job_id)
    count = len(service.bench.events(job_id))
    service.worker.ring(job_id)
    after = service.bench.submit_steps(1, 5)
    service.worker.ring(after)
    service.bench.wait_for_end(after)
    assert len(service.bench.events(job_id)) == count
