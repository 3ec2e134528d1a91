"""Models and health over HTTP."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
from typer.testing import CliRunner

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from cli.main import app
from sgg_core.catalogue import BaseModelEntry, Catalogue, DirectorySource
from sgg_store.records import FileRecord


def test_base_models_come_with_what_the_catalogue_says(api_server: ApiServer) -> None:
    with api_server.http() as http:
        models = http.get("/v1/models").json()["data"]
        one = http.get("/v1/models/all-minilm-l6-v2").json()
    assert [model["id"] for model in models] == ["smollm2-135m-instruct", "all-minilm-l6-v2"]
    assert one == models[1]
    assert (one["object"], one["owned_by"], one["sgg"]["type"]) == ("model", "catalogue", "base")
    assert (one["sgg"]["kind"], one["sgg"]["parameters"], one["sgg"]["license"]) == ("encoder", 22713216, "Apache-2.0")


def test_a_model_added_to_the_catalogue_can_be_used_at_once(api_server: ApiServer) -> None:
    entry = BaseModelEntry(name="tiny", kind="causal", source=DirectorySource(path="/nowhere/secret"))
    Catalogue.load(api_server.settings.data_dir).add(entry)
    with api_server.http() as http:
        answer = http.get("/v1/models/tiny")
    assert answer.json()["id"] == "tiny" and "secret" not in answer.text
    assert api_server.job(api_server.job_id(model="tiny"))["model"] == "tiny"


def test_a_fine_tuned_model_is_listed_until_it_is_deleted(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    name = api_server.claim(job_id).succeed({"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"})
    results = api_server.job(job_id)["result_files"]
    with api_server.http() as http:
        model = http.get(f"/v1/models/{name}").json()
        assert model in http.get("/v1/models").json()["data"]
        assert (model["sgg"]["job"], model["sgg"]["base_model"]) == (job_id, "smollm2-135m-instruct")
        assert (model["sgg"]["method"], model["sgg"]["result_files"]) == ("supervised", results)
        assert http.delete(f"/v1/models/{name}").json() == {"id": name, "object": "model", "deleted": True}
        assert http.get(f"/v1/models/{name}").status_code == 404
        assert http.delete(f"/v1/models/{name}").status_code == 404
        assert [http.get(f"/v1/files/{each}/content").status_code for each in results] == [200, 404]
    assert not [found.key for found in api_server.objects.list("") if found.key.endswith("adapter.tar.gz")]


def test_the_command_lists_and_deletes_what_jobs_made(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_BASE_URL", api_server.base_url)
    monkeypatch.setenv("SGG_API_KEY", api_server.admin_key)
    name = api_server.claim(api_server.job_id()).succeed({"adapter.tar.gz": b"bundle"})
    listed = CliRunner().invoke(app, ["models", "served"])
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        *(["smollm2-135m-instruct", "causal"], ["all-minilm-l6-v2", "encoder"], [name, "fine-tuned"])
    ]
    with api_server.http() as http:
        told = http.get("/v1/models").json()["data"]
    assert json.loads(CliRunner().invoke(app, ["models", "served", "--json"]).stdout) == told
    deleted = CliRunner().invoke(app, ["models", "delete", name, "all-minilm-l6-v2"])
    assert (deleted.exit_code, deleted.stdout) == (1, f"Deleted {name}.\n")
    assert "is a base model, which the API cannot delete" in deleted.stderr
    with api_server.http() as http:
        assert http.get(f"/v1/models/{name}").status_code == 404


@pytest.mark.parametrize("name", ["owner/name", "owner%2Fname", "ft%3Aa%3Ab%3A%3Ac", "a%20b"])
def test_any_name_can_be_asked_for(api_server: ApiServer, name: str) -> None:
    with api_server.http() as http:
        response = http.get(f"/v1/models/{name}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert httpx.URL(f"http://x/{name}").path[1:] in response.json()["error"]["message"]


def test_a_base_model_cannot_be_deleted(api_server: ApiServer) -> None:
    with api_server.http() as http:
        response = http.delete("/v1/models/all-minilm-l6-v2")
    assert response.status_code == 403 and "`sgg models remove`" in response.json()["error"]["message"]


def test_a_checkpoint_is_deleted_by_its_name_and_its_jobs_model_stays(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.step(1)
    worker.checkpoint(1)
    model = worker.succeed({"metrics.csv": b"step\n"})
    with api_server.http() as http:
        [found] = http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"]
        name = found["fine_tuned_model_checkpoint"]
        assert http.delete(f"/v1/models/{name}0").status_code == 404
        assert http.delete(f"/v1/models/{name}").json() == {"id": name, "object": "model", "deleted": True}
        assert [http.get(f"/v1/models/{each}").status_code for each in (name, model)] == [404, 200]
        assert http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"] == []


def test_a_model_whose_adapter_has_expired_is_missed_by_its_name(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    model = api_server.claim(job_id).succeed({"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"})
    bundle = api_server.job(job_id)["result_files"][1]
    with api_server.database.begin() as session:
        session.get_one(FileRecord, bundle).expires_at = 1.0
    with api_server.http() as http:
        asked = http.post("/v1/classifications", json={"model": model, "input": "x"}).json()["error"]
    created = api_server.create_job(model=model, training_file=api_server.file_id()).json()["error"]
    assert (asked["code"], created["code"]) == ("model_not_found", "starting_point_not_found")
    for error in (asked, created):
        assert model in error["message"] and bundle not in error["message"]


def test_health_needs_no_key(api_server: ApiServer) -> None:
    with httpx.Client(base_url=api_server.url, trust_env=False) as http:
        assert http.get("/health/live").json() == {"status": "ok"}
        ready = http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "checks": {"database": "ok", "object_store": "ok", "reaper": "ok"}}


def test_a_missing_part_makes_the_server_unready_but_alive(api_settings: ApiSettings) -> None:
    problem = None
    with serving(api_settings, worker_problem=lambda: problem) as server, server.http() as http:
        assert http.get("/health/ready").json()["checks"]["worker"] == "ok"
        problem = "Its dispatcher stopped."
        ready = http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert ready.json()["checks"]["worker"] == problem
        problem = None
        shutil.rmtree(api_settings.object_store_url)
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'other'")
        checks = http.get("/health/ready").json()["checks"]
        assert checks["worker"] == "ok" and "ok" not in (checks["object_store"], checks["database"])
        assert http.get("/health/live").status_code == 200


def test_a_damaged_catalogue_is_told_without_its_path(api_server: ApiServer) -> None:
    (api_server.settings.data_dir / "base-models.json").write_text("{")
    with api_server.http() as http:
        response = http.get("/v1/models")
    assert response.status_code == 503
    assert str(api_server.settings.data_dir) not in response.text and "administrator" in response.text
