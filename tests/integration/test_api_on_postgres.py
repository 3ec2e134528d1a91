"""The API on Postgres, which lets nothing lock or write where the code says that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.audit import AuditLog

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(tmp_path: Path, postgres_url: str) -> Iterator[ApiServer]:
    with serving(ApiSettings(data_dir=tmp_path / "data", database_url=postgres_url)) as running:
        yield running


def test_an_upload_in_parts_becomes_a_file(server: ApiServer) -> None:
    content = labelled()
    asked = {"bytes": len(content), "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    with server.http() as http:
        upload = http.post("/v1/uploads", json=asked).json()["id"]
        part = http.post(f"/v1/uploads/{upload}/parts", files={"data": ("upload", content)}).json()["id"]
        done = http.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]})
        assert (done.status_code, done.json()["status"]) == (200, "completed")
        again = http.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]})
        assert again.json()["file"]["id"] == done.json()["file"]["id"]


def test_no_route_that_reads_locks_or_writes(server: ApiServer) -> None:
    job_id = server.job_id()
    worker = server.claim(job_id)
    worker.step(1)
    worker.checkpoint(1)
    model = worker.succeed({"metrics.csv": b"step\n", "adapter.tar.gz": b"adapter"})
    values = {"job_id": job_id, "file_id": server.job(job_id)["result_files"][0], "model": model, "name": model}
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
        reading = [path.format_map(_Known(values)) for path, verbs in paths.items() if "get" in verbs]
        answers = {path: http.get(path).status_code for path in reading}
    assert {path: status for path, status in answers.items() if status >= 500} == {}
    assert sum(status == 200 for status in answers.values()) >= 10


class _Known(dict[str, str]):
    """Values of path parameters; those that are not known name nothing."""

    def __missing__(self, key: str) -> str:
        return "unknown"


def test_calls_with_broken_names_are_in_the_audit_log(server: ApiServer) -> None:
    with server.http() as http:
        assert http.post("/v1/fine_tuning/jobs/%00/cancel").status_code == 400
    with server.database.read() as session:
        [entry] = AuditLog(session).list_page(limit=100).items
    assert (entry.action, entry.target, entry.status) == ("job.cancelled", "\ufffd", 400)
