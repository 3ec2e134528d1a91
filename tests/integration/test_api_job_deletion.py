"""Deleting jobs over HTTP and from the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from api.testing import ApiServer
from cli.main import app


def finished_job(server: ApiServer) -> str:
    job_id = server.job_id()
    worker = server.claim(job_id)
    worker.step(1)
    worker.checkpoint(1)
    worker.succeed({"metrics.csv": b"step\n", "adapter.tar.gz": b"adapter"})
    return job_id


def test_a_finished_job_is_deleted_with_its_results_model_and_objects(api_server: ApiServer) -> None:
    job_id = finished_job(api_server)
    job = api_server.job(job_id)
    with api_server.http() as http:
        answer = http.delete(f"/v1/fine_tuning/jobs/{job_id}")
        assert answer.status_code == 200
        assert answer.json() == {"id": job_id, "object": "fine_tuning.job", "deleted": True}
        gone = [f"/v1/fine_tuning/jobs/{job_id}", f"/v1/fine_tuning/jobs/{job_id}/events"]
        gone += [f"/v1/files/{file_id}" for file_id in job["result_files"]] + [f"/v1/models/{job['fine_tuned_model']}"]
        assert [http.get(path).status_code for path in gone] == [404] * len(gone)
        assert http.delete(f"/v1/fine_tuning/jobs/{job_id}").status_code == 404
        assert http.get(f"/v1/files/{job['training_file']}").status_code == 200
    assert [found.key for found in api_server.objects.list("jobs")] == []


def test_a_job_that_is_not_finished_or_not_ones_own_stays(api_server: ApiServer) -> None:
    queued, finished = api_server.job_id(), finished_job(api_server)
    with api_server.http() as http:
        refused = http.delete(f"/v1/fine_tuning/jobs/{queued}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_job_status")
    with api_server.http(api_server.new_key(project_id="proj-other")) as http:
        assert http.delete(f"/v1/fine_tuning/jobs/{finished}").status_code == 404
    with api_server.http(api_server.new_key(["jobs:read"])) as http:
        assert http.delete(f"/v1/fine_tuning/jobs/{finished}").status_code == 403
    assert api_server.job(queued)["status"] == "queued"
    assert api_server.job(finished)["status"] == "succeeded"


def test_the_command_deletes_jobs(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_BASE_URL", api_server.base_url)
    monkeypatch.setenv("SGG_API_KEY", api_server.admin_key)
    first, second = finished_job(api_server), finished_job(api_server)
    deleted = CliRunner().invoke(app, ["jobs", "delete", first, second, "--json"])
    assert deleted.exit_code == 0
    assert [each["id"] for each in json.loads(deleted.stdout)] == [first, second]
    refused = CliRunner().invoke(app, ["jobs", "delete", first])
    assert refused.exit_code == 1 and first in refused.stderr


def test_the_command_cleans_the_servers_store(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", api_server.settings.database_url)
    finished_job(api_server)
    arguments = ["clean", "--data-dir", str(api_server.settings.data_dir), "--json"]
    with monkeypatch.context() as patched:
        patched.setenv("SGG_DATA_DIR", str(api_server.settings.data_dir))
        for options in (["--dry-run"], []):
            cleaned = json.loads(CliRunner().invoke(app, arguments + options).stdout)
            assert cleaned == {
                **{"dry_run": bool(options), "checkpoints": 0, "files": 0},
                **{"garbage_objects": 0, "garbage_bytes": 0},
            }
