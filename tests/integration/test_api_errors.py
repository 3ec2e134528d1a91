"""Every answer that is an error has OpenAI's envelope and an id; none tells secrets or of other projects."""

from __future__ import annotations

import time
from itertools import product

import httpx
import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.database import Database
from sgg_store.errors import SchemaOutdatedError
from sgg_store.keys import DEFAULT_PROJECT_ID, ApiKeys, load_key_secret


def assert_envelope(response: httpx.Response, status: int, type_: str, code: str) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) - {"sgg"} == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (type_, code)
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    return str(error["message"])


def call(server: ApiServer, method: str, path: str, key: str | None = None) -> httpx.Response:
    with server.http(key) as http:
        return http.request(method, path, json={} if (method, path) == ("POST", "/v1/fine_tuning/jobs") else None)


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/v1/files/", "/v1/files/a/b/c", "/docs"])
def test_unknown_paths(api_server: ApiServer, path: str) -> None:
    message = assert_envelope(call(api_server, "GET", path), 404, "not_found_error", "not_found")
    assert path in message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("PATCH", "/v1/files/file-x", "DELETE, GET"),
        ("DELETE", "/v1/fine_tuning/jobs", "GET, POST"),
        ("GET", "/v1/fine_tuning/jobs/x/cancel", "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/health/live", "GET"),
    ],
)
def test_wrong_verbs(api_server: ApiServer, method: str, path: str, allowed: str) -> None:
    response = call(api_server, method, path)
    message = assert_envelope(response, 405, "invalid_request_error", "method_not_allowed")
    assert response.headers["allow"] == allowed and allowed in message


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic abc",
        "Bearer sk-123",
        "Bearer sgg_",
        "Bearer sgg_0123456789abcdef_wrong",
        "Bearer sgg_' OR 1=1_x",
        "Bearer \xff\xfe",
        "Bearer " + "x" * 10_000,
    ],
)
def test_wrong_keys(api_server: ApiServer, header: str) -> None:
    with httpx.Client(base_url=api_server.url, trust_env=False) as http:
        response = http.get("/v1/files", headers={"Authorization": header.encode("latin-1")})
    message = assert_envelope(response, 401, "authentication_error", "invalid_api_key")
    assert "Bearer" in message or "admin-key" in message
    assert header[7:] == "" or header[7:] not in message


def test_a_key_with_a_changed_secret_an_expired_and_a_revoked_one(api_server: ApiServer) -> None:
    changed = api_server.admin_key[:-1] + ("A" if api_server.admin_key[-1] != "A" else "B")
    expired = api_server.new_key(expires_at=time.time() - 1)
    revoked = api_server.new_key()
    assert call(api_server, "GET", "/v1/files", revoked).status_code == 200
    path = f"/v1/organization/projects/{DEFAULT_PROJECT_ID}/api_keys/{revoked.split('_')[1]}"
    assert call(api_server, "DELETE", path).status_code == 200
    for key in (changed, expired, revoked):
        response = call(api_server, "GET", "/v1/files", key)
        assert_envelope(response, 401, "authentication_error", "invalid_api_key")


def test_a_key_that_another_process_revokes_is_refused_within_the_stated_time(api_settings: ApiSettings) -> None:
    with serving(api_settings.model_copy(update={"key_cache_seconds": 0.5})) as server:
        key = server.new_key()
        assert call(server, "GET", "/v1/files", key).status_code == 200
        with server.database.begin() as session:
            keys = ApiKeys(session, load_key_secret(server.settings.data_dir))
            keys.revoke(DEFAULT_PROJECT_ID, key.split("_")[1])
        time.sleep(0.5)
        response = call(server, "GET", "/v1/files", key)
        assert_envelope(response, 401, "authentication_error", "invalid_api_key")


def test_a_stranger_is_refused_before_the_upload_is_looked_at(api_server: ApiServer) -> None:
    with httpx.Client(base_url=api_server.url, trust_env=False) as http:
        response = http.post("/v1/files", content=b"nonsense", headers={"content-type": "multipart/form-data"})
    assert response.status_code == 401


def test_a_defect_tells_its_id_and_nothing_else_and_a_retry_does_no_harm(api_settings: ApiSettings) -> None:
    def defective(job_id: str) -> None:
        raise RuntimeError("the secret inside")

    with serving(api_settings, ring=defective) as server:
        body = {"model": "smollm2-135m-instruct", "training_file": server.file_id()}
        response = server.create_job(**body)
        message = assert_envelope(response, 500, "server_error", "internal_error")
        assert response.headers["x-request-id"] in message and "secret" not in response.text
        retried = server.create_job(headers={"x-stainless-retry-count": "1"}, **body)
        assert retried.status_code == 200
        with server.http() as http:
            assert len(http.get("/v1/fine_tuning/jobs").json()["data"]) == 1


def test_an_unreachable_database_is_told_without_its_address(api_settings: ApiSettings) -> None:
    with serving(api_settings) as server:
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO hidden")
        response = call(server, "GET", "/v1/files")
        message = assert_envelope(response, 503, "server_error", "database_unavailable")
        assert "api_keys" not in message and response.headers["retry-after"]


def test_every_answer_has_an_id_of_its_own_and_its_duration(api_server: ApiServer) -> None:
    paths = ("/health/live", "/v1/files", "/v1/models", "/nothing", "/v1/files?limit=0")
    seen = set()
    with api_server.http() as http:
        for path, _ in product(paths, range(2)):
            headers = http.get(path, headers={"x-request-id": "mine"}).headers
            assert int(headers["openai-processing-ms"]) >= 0
            seen.add(headers["x-request-id"])
    assert len(seen) == 2 * len(paths) and "mine" not in seen


def test_an_outdated_schema_stops_the_start(api_settings: ApiSettings) -> None:
    database = Database(api_settings.database_url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'other'")
    database.dispose()
    from fastapi.testclient import TestClient

    from api.app import create_app

    with pytest.raises(SchemaOutdatedError, match="sgg db status"), TestClient(create_app(api_settings)):
        pass
