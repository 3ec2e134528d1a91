"""Jobs that start from earlier weights, through the real worker and trainer."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgg_core.adapter_file import ADAPTER, pack
from sgg_core.tiny import save_tiny_base
from sgg_store.files import Files
from sgg_store.job_state import JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import TWO_LABELS, Workbench

LORA = {"rank": 3, "alpha": 6.0}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workbench, EmbeddedWorker]]:
    directory = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "tiny"))
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        yield bench, worker
        worker.stop()
        bench.close()


def finished(service: tuple[Workbench, EmbeddedWorker], **spec: Any) -> str:
    bench, worker = service
    optimization = {"epochs": 1000, "max_steps": 4, "batch_size": 4}
    job_id = bench.submit(**({"optimization": optimization, "lora": LORA, "validation": TWO_LABELS} | spec))
    worker.ring(job_id)
    bench.wait_for_end(job_id)
    return job_id


def bundle_of(bench: Workbench, job_id: str) -> dict[str, bytes]:
    job = bench.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    with bench.database.read() as session:
        key = Files(session).get(DEFAULT_PROJECT_ID, job.result_file_ids[1]).object_key
    with tarfile.open(fileobj=io.BytesIO(b"".join(bench.objects.open(key)))) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_model_checkpoint_and_upload_are_one_starting_point(
    service: tuple[Workbench, EmbeddedWorker], tmp_path: Path
) -> None:
    bench, _ = service
    first = finished(service)
    files, model = bundle_of(bench, first), bench.job(first).model_name
    for name, content in files.items():
        if "/" not in name:
            (tmp_path / name).write_bytes(content)
    pack(tmp_path, tmp_path / "packed")
    uploaded = bench.upload((tmp_path / "packed").read_bytes(), "adapter.safetensors")
    checkpoint = bench.job(first).checkpoint_name(4)
    made = {
        start: bundle_of(bench, finished(service, start_from=start, seed=7)) for start in (model, checkpoint, uploaded)
    }
    assert made[model][ADAPTER] == made[checkpoint][ADAPTER] == made[uploaded][ADAPTER] != files[ADAPTER]
    assert json.loads(made[checkpoint]["sgg.json"])["started_from"]["name"] == checkpoint
    ended = json.loads(files["report.json"])["evaluation"]["loss"]
    assert json.loads(made[model]["report.json"])["baseline"]["loss"] == pytest.approx(ended, abs=1e-6)


def test_a_start_that_does_not_fit_fails_the_job_and_names_the_parameter(
    service: tuple[Workbench, EmbeddedWorker],
) -> None:
    bench, _ = service
    first = finished(service)
    job = bench.job(finished(service, start_from=bench.job(first).model_name, lora={"rank": 5, "alpha": 6.0}))
    assert (job.status, job.error_code) == (JobStatus.FAILED, "invalid_starting_point")
    assert job.error_param == "method.sgg.start_from"
    assert job.error_message is not None and "lora.rank=3" in job.error_message
    assert str(bench.settings.data_dir) not in job.error_message
