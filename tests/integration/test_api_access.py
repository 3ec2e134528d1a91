"""Who may do what, over every route that the application has: a route that is not in the table below fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.settings import ApiSettings
from api.testing import TLS, ApiServer, serving
from sgg_store.keys import DEFAULT_PROJECT_ID, SCOPES

Route = tuple[str, str]
STRANGERS_SCOPES = tuple(scope for scope in SCOPES if scope != "admin")


@dataclass(frozen=True)
class Rule:
    """What a route asks for. `owned` says what its path names last, if that belongs to a project."""

    scope: str
    owned: str | None = None
    body: dict[str, Any] | None = None


RULES: dict[Route, Rule] = {
    ("POST", "/v1/files"): Rule("files:write"),
    ("GET", "/v1/files"): Rule("files:read"),
    ("GET", "/v1/files/{file_id}"): Rule("files:read", "file"),
    ("DELETE", "/v1/files/{file_id}"): Rule("files:write", "file"),
    ("GET", "/v1/files/{file_id}/content"): Rule("files:read", "file"),
    ("POST", "/v1/uploads"): Rule("files:write", body={}),
    ("POST", "/v1/uploads/{upload_id}/parts"): Rule("files:write"),
    ("POST", "/v1/uploads/{upload_id}/complete"): Rule("files:write", "upload", body={"part_ids": ["part_x"]}),
    ("POST", "/v1/uploads/{upload_id}/cancel"): Rule("files:write", "upload"),
    ("POST", "/v1/fine_tuning/jobs"): Rule("jobs:write", body={}),
    ("GET", "/v1/fine_tuning/jobs"): Rule("jobs:read"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): Rule("jobs:read", "job"),
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): Rule("jobs:write", "job"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): Rule("jobs:write", "job"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): Rule("jobs:write", "job"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): Rule("jobs:write", "job"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): Rule("jobs:read", "job"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/metrics"): Rule("jobs:read", "job"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"): Rule("jobs:read", "job"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/report"): Rule("jobs:read", "job"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/examples"): Rule("jobs:read", "job"),
    ("GET", "/v1/fine_tuning/compare"): Rule("jobs:read"),
    ("POST", "/v1/fine_tuning/preview"): Rule("jobs:write", body={}),
    ("POST", "/v1/fine_tuning/alpha/graders/run"): Rule("jobs:write", body={}),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): Rule("jobs:write", body={}),
    ("POST", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"): Rule(
        "jobs:write", "checkpoint", body={"project_ids": ["proj-default"]}
    ),
    ("GET", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"): Rule("jobs:read", "checkpoint"),
    ("DELETE", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}"): Rule(
        "jobs:write", "checkpoint"
    ),
    ("GET", "/v1/models"): Rule("jobs:read"),
    ("GET", "/v1/models/{model}"): Rule("jobs:read", "model"),
    ("DELETE", "/v1/models/{model}"): Rule("jobs:write", "model"),
    ("POST", "/v1/chat/completions"): Rule("models:try", body={}),
    ("POST", "/v1/completions"): Rule("models:try", body={}),
    ("POST", "/v1/classifications"): Rule("models:try", body={}),
    ("POST", "/v1/responses"): Rule("models:try", body={}),
    ("POST", "/v1/embeddings"): Rule("models:try", body={}),
    ("POST", "/v1/batches"): Rule("models:try", body={}),
    ("POST", "/v1/evals"): Rule("jobs:write", body={}),
    ("POST", "/v1/webhook_endpoints"): Rule("jobs:write", body={}),
    ("GET", "/v1/webhook_endpoints"): Rule("jobs:read"),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}"): Rule("jobs:read", "endpoint"),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}"): Rule("jobs:write", "endpoint", body={}),
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): Rule("jobs:write", "endpoint"),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret"): Rule("jobs:write", "endpoint"),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}/deliveries"): Rule("jobs:read", "endpoint"),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/resend"): Rule("jobs:write", "endpoint"),
    ("GET", "/v1/project"): Rule("jobs:read"),
    ("POST", "/v1/organization/projects"): Rule("admin", body={}),
    ("GET", "/v1/organization/projects"): Rule("admin"),
    ("GET", "/v1/organization/projects/{project_id}"): Rule("admin"),
    ("POST", "/v1/organization/projects/{project_id}"): Rule("admin", body={}),
    ("POST", "/v1/organization/projects/{project_id}/api_keys"): Rule("admin", body={}),
    ("GET", "/v1/organization/projects/{project_id}/api_keys"): Rule("admin"),
    ("GET", "/v1/organization/projects/{project_id}/api_keys/{key_id}"): Rule("admin"),
    ("DELETE", "/v1/organization/projects/{project_id}/api_keys/{key_id}"): Rule("admin"),
    ("GET", "/v1/organization/audit_logs"): Rule("admin"),
    ("GET", "/v1/organization/workers"): Rule("admin"),
}
SESSION = "/dashboard/session"
OPEN = {("GET", "/health/live"), ("GET", "/health/ready"), ("POST", SESSION), ("GET", SESSION), ("DELETE", SESSION)}
"""The routes that want no key: what they tell anybody is told in tests of their own."""
UNLISTED = {("GET", "/"), ("GET", "/dashboard/{version}/{path}")}
"""The dashboard's own files, which are the same for everybody and not in the schema."""


def served_routes() -> list[Route]:
    app = create_app(ApiSettings(data_dir=Path("/nonexistent")))
    return [(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs]


ROUTES = [route for route in served_routes() if route not in OPEN]
OWNED = [route for route in ROUTES if (rule := RULES.get(route)) and rule.owned]
LISTS = {
    "/v1/files": "file",
    "/v1/fine_tuning/jobs": "job",
    "/v1/models": "model",
    "/v1/webhook_endpoints": "endpoint",
}
"""What a project sees of its own, and a kind that it sees there."""
NAMES = (
    "checkpoint",
    "permission_id",
    "file_id",
    "upload_id",
    "job_id",
    "model",
    "endpoint_id",
    "delivery_id",
    "project_id",
    "key_id",
)


def call(server: ApiServer, route: Route, key: str | None, named: str = "x") -> httpx.Response:
    method, template = route
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=server.url, headers=headers, verify=TLS, trust_env=False, timeout=60) as http:
        path = template.format(**dict.fromkeys(NAMES, named))
        return http.request(method, path, json=RULES[route].body)


def error(response: httpx.Response) -> tuple[int, str, str]:
    told = response.json()["error"]
    return response.status_code, told["code"], told["message"]


@pytest.fixture(scope="module")
def api_server(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One server for all: each test has keys of its own, and what it asks for with them leaves no trace for others."""
    directory = tmp_path_factory.mktemp("access")
    database = shutil.copyfile(migrated_sqlite_file, directory / "sgg.sqlite3")
    with serving(ApiSettings(data_dir=directory / "data", database_url=f"sqlite:///{database}")) as server:
        yield server


@pytest.fixture(scope="module")
def owned(api_server: ApiServer) -> dict[str, str]:
    """Things of the default project by kind: a file, a running job, the model of a finished one, a webhook endpoint."""
    finished = api_server.job_id()
    model = api_server.claim(finished).succeed({"metrics.csv": b"step\n"})
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.step(1)
    worker.checkpoint(1)
    with api_server.http() as http:
        endpoint = http.post("/v1/webhook_endpoints", json={"url": "https://example.com/"}).json()["id"]
        announced = {"filename": "t.jsonl", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/jsonl"}
        upload = http.post("/v1/uploads", json=announced).json()["id"]
        (saved,) = http.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"]
        checkpoint = saved["fine_tuned_model_checkpoint"]
    return {"file": api_server.file_id(), "upload": upload, "job": job_id, "model": model, "endpoint": endpoint} | {
        "checkpoint": checkpoint
    }


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    assert set(RULES) | OPEN == set(served_routes())


def test_the_schema_names_the_scope_of_every_route() -> None:
    paths = create_app(ApiSettings(data_dir=Path("/nonexistent"))).openapi()["paths"]
    told = {(verb, path): paths[path][verb.lower()]["security"] for verb, path in served_routes()}
    assert told == {route: [{"key": [RULES[route].scope]}] for route in ROUTES} | {route: [] for route in OPEN}


def test_what_the_schema_leaves_out_is_the_same_for_everybody() -> None:
    app = create_app(ApiSettings(data_dir=Path("/nonexistent")))
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert {
        (verb, route.path_format) for route in routes for verb in route.methods or () if not route.include_in_schema
    } == UNLISTED
    assert {(verb, route.path_format) for route in routes for verb in route.methods or ()} - UNLISTED == set(
        served_routes()
    )


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_every_route_wants_a_key_with_its_scope(api_server: ApiServer, route: Route) -> None:
    scope = RULES[route].scope
    response = call(api_server, route, None)
    assert error(response)[:2] == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    refused = call(api_server, route, api_server.new_key([other for other in STRANGERS_SCOPES if other != scope]))
    status, code, message = error(refused)
    assert (status, code) == (403, "insufficient_permissions")
    assert repr(scope) in message
    assert call(api_server, route, api_server.new_key([scope])).status_code not in (401, 403, 500)
    assert call(api_server, route, api_server.new_key(["admin"])).status_code not in (401, 403, 500)


@pytest.mark.parametrize("route", OWNED, ids=" ".join)
@pytest.mark.parametrize("scopes", [STRANGERS_SCOPES, ["admin"]], ids=["user", "administrator"])
def test_what_another_project_owns_is_not_there(
    api_server: ApiServer, owned: dict[str, str], route: Route, scopes: list[str]
) -> None:
    thing = owned[RULES[route].owned or ""]
    stranger = api_server.new_key(scopes, project_id="proj-stranger")
    told = [error(call(api_server, route, stranger, named)) for named in (thing, "no-such-id")]
    code = "model_not_found" if RULES[route].owned == "model" else "not_found"
    assert told[0][:2] == told[1][:2] == (404, code)
    assert told[0][2].replace(thing, "no-such-id") == told[1][2]
    with api_server.http() as http:  # and nothing has happened to it
        assert api_server.job(owned["job"])["sgg"]["cancel_requested"] is False
        assert http.get(f"/v1/files/{owned['file']}/content").status_code == 200
        assert http.get(f"/v1/models/{owned['model']}").status_code == 200


@pytest.mark.parametrize(("path", "kind"), LISTS.items())
def test_no_list_shows_or_goes_on_after_what_another_project_owns(
    api_server: ApiServer, owned: dict[str, str], path: str, kind: str
) -> None:
    with api_server.http() as http:
        assert owned[kind] in http.get(path).text
    with api_server.http(api_server.new_key(STRANGERS_SCOPES, project_id="proj-stranger")) as http:
        seen = http.get(path)
        assert seen.status_code == 200
        assert not any(thing in seen.text for thing in owned.values())
        unknown = http.get(path, params={"after": "no-such-id"})
        for thing in owned.values():
            answer = http.get(path, params={"after": thing})
            assert answer.status_code == unknown.status_code
            assert answer.text.replace(thing, "no-such-id") == unknown.text


def test_every_list_is_looked_at() -> None:
    plain = {path for verb, path in ROUTES if verb == "GET" and "{" not in path and RULES[verb, path].scope != "admin"}
    assert plain == {*LISTS, "/v1/fine_tuning/compare", "/v1/project"}  # the one names jobs, the other is the caller's


def test_a_job_cannot_use_files_of_another_project(api_server: ApiServer, owned: dict[str, str]) -> None:
    stranger = api_server.new_key(STRANGERS_SCOPES, project_id="proj-stranger")
    mine, foreign = api_server.file_id(key=stranger), owned["file"]
    for body in (
        {"training_file": foreign},
        {"training_file": mine, "validation_file": foreign},
        {"training_file": mine, "method": {"type": "sgg", "sgg": {"sources": [foreign]}}},
        {"training_file": mine, "method": {"type": "sgg", "sgg": {"retention_file": foreign}}},
    ):
        answer = api_server.create_job(stranger, model="smollm2-135m-instruct", **body)
        assert error(answer)[:2] == (400, "file_not_found")
    with api_server.http(stranger) as http:
        preview = http.post(
            "/v1/fine_tuning/preview", json={"model": "smollm2-135m-instruct", "training_file": foreign}
        )
    assert error(preview)[:2] == (400, "file_not_found")


def test_jobs_of_another_project_cannot_be_compared(api_server: ApiServer, owned: dict[str, str]) -> None:
    stranger = api_server.new_key(STRANGERS_SCOPES, project_id="proj-stranger")
    mine = api_server.create_job(
        stranger, model="smollm2-135m-instruct", training_file=api_server.file_id(key=stranger)
    ).json()["id"]
    with api_server.http(stranger) as http:
        told = [
            error(http.get("/v1/fine_tuning/compare", params={"jobs": f"{mine},{foreign}"}))
            for foreign in (owned["job"], "no-such-id")
        ]
    assert told[0][:2] == told[1][:2] == (404, "not_found")
    assert told[0][2].replace(owned["job"], "no-such-id") == told[1][2]


def test_no_part_is_added_to_or_taken_from_an_upload_of_another_project(
    api_server: ApiServer, owned: dict[str, str]
) -> None:
    stranger = api_server.new_key(STRANGERS_SCOPES, project_id="proj-stranger")
    nine = {"data": ("part", b"nine byte")}
    announced = {"filename": "t.jsonl", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/jsonl"}
    with api_server.http() as http:
        part = http.post(f"/v1/uploads/{owned['upload']}/parts", files=nine).json()["id"]
    stored = {found.key for found in api_server.objects.list("uploads")}
    with api_server.http(stranger) as http:
        told = [error(http.post(f"/v1/uploads/{each}/parts", files=nine)) for each in (owned["upload"], "no-such-id")]
        mine = http.post("/v1/uploads", json=announced).json()["id"]
        taken = http.post(f"/v1/uploads/{mine}/complete", json={"part_ids": [part]})
    assert told[0][:2] == told[1][:2] == error(taken)[:2] == (404, "not_found")
    assert told[0][2].replace(owned["upload"], "no-such-id") == told[1][2]
    assert {found.key for found in api_server.objects.list("uploads")} == stored


def test_an_idempotency_key_of_another_project_means_nothing(api_server: ApiServer) -> None:
    stranger = api_server.new_key(STRANGERS_SCOPES, project_id="proj-stranger")
    made = []
    for key in (api_server.admin_key, stranger):
        body = {"model": "smollm2-135m-instruct", "training_file": api_server.file_id(key=key)}
        answer = api_server.create_job(key, headers={"Idempotency-Key": "same"}, **body)
        assert answer.status_code == 200, answer.text
        made.append(answer.json()["organization_id"])
    assert made == [DEFAULT_PROJECT_ID, "proj-stranger"]
