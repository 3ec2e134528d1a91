"""Projects, keys and the audit log over HTTP, also with OpenAI's own client."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
from openai import OpenAI
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from api.audit.middleware import RefusalBudget
from api.audit.trail import action_of
from api.keys.schemas import Scope
from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.records import JobRecord

PROJECTS = "/v1/organization/projects"
LOGS = "/v1/organization/audit_logs"


def post(server: ApiServer, path: str, key: str | None = None, **body: Any) -> dict[str, Any]:
    with server.http(key) as http:
        response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def get(server: ApiServer, path: str, **params: Any) -> dict[str, Any]:
    with server.http() as http:
        response = http.get(path, params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


def logs(server: ApiServer, **params: Any) -> list[dict[str, Any]]:
    return list(get(server, LOGS, limit=1000, **params)["data"])


def test_a_project_gets_a_key_that_sees_nothing_of_others(api_server: ApiServer) -> None:
    api_server.file_id()
    project = post(api_server, PROJECTS, name="Team A")
    assert (project["object"], project["status"], project["name"]) == ("organization.project", "active", "Team A")
    key = post(api_server, f"{PROJECTS}/{project['id']}/api_keys", name="ci", scopes=["files:read", "files:write"])
    with api_server.http(key["value"]) as http:
        assert http.get("/v1/files").json()["data"] == []
        assert http.get("/v1/fine_tuning/jobs").status_code == 403
    api_server.file_id(key=key["value"])
    assert get(api_server, f"{PROJECTS}/{project['id']}")["sgg"]["quotas"]["stored_bytes"]["used"] > 0


def test_a_key_may_ask_what_its_own_project_uses(api_server: ApiServer) -> None:
    api_server.file_id()
    project = post(api_server, PROJECTS, name="Team B", sgg={"quotas": {"queued_jobs": 3}})
    with api_server.http(api_server.new_key(["jobs:read"], project["id"])) as http:
        own = http.get("/v1/project").json()
    assert (own["id"], own["name"], own["sgg"]) == (project["id"], "Team B", project["sgg"])
    assert own["sgg"]["quotas"]["queued_jobs"] == {"limit": 3, "used": 0, "source": "project"}


def test_a_key_is_shown_once_and_opens_nothing_once_revoked_or_expired(api_server: ApiServer) -> None:
    keys = f"{PROJECTS}/{DEFAULT_PROJECT_ID}/api_keys"
    lasting = post(api_server, keys, name="lasting", scopes=list(get_args(Scope)))
    brief = post(api_server, keys, name="brief", scopes=["files:read"], expires_in_seconds=1)
    value = lasting["value"]
    assert value.startswith(f"sgg_{lasting['id']}_") and lasting["redacted_value"] not in (value, "")
    with api_server.http(value) as http:
        assert http.get("/v1/files").status_code == 200
    with api_server.http() as http:
        for answer in (http.get(keys), http.get(f"{keys}/{lasting['id']}"), http.get(LOGS)):
            assert value.split("_", 2)[2] not in answer.text
        known = {key["id"]: key for key in http.get(keys).json()["data"]}
        assert abs(known[lasting["id"]]["last_used_at"] - time.time()) < 60
        assert known[brief["id"]]["last_used_at"] is None
        assert http.delete(f"{keys}/{lasting['id']}").json()["deleted"] is True
        assert http.get(f"{keys}/{lasting['id']}").json()["sgg"]["status"] == "revoked"
        assert lasting["id"] not in http.get(keys).text
        assert lasting["id"] in http.get(keys, params={"include_revoked": "true"}).text
    time.sleep(1.1)
    for refused in (value, brief["value"]):
        with api_server.http(refused) as http:
            assert http.get("/v1/files").status_code == 401
    assert get(api_server, f"{keys}/{brief['id']}")["sgg"]["status"] == "expired"


def test_quotas_are_set_and_given_back_to_the_servers_default(api_server: ApiServer) -> None:
    path = f"{PROJECTS}/{DEFAULT_PROJECT_ID}"
    before = get(api_server, path)["sgg"]["quotas"]
    assert {quota["source"] for quota in before.values()} == {"server"}
    quotas = post(api_server, path, sgg={"quotas": {"running_jobs": 2, "stored_bytes": 2**50}})["sgg"]["quotas"]
    assert quotas["running_jobs"] == {"limit": 2, "used": 0, "source": "project"}
    assert quotas["stored_bytes"]["limit"] == 2**50 and quotas["queued_jobs"] == before["queued_jobs"]
    renamed = post(api_server, path, name="Main")
    assert renamed["name"] == "Main" and renamed["sgg"]["quotas"]["running_jobs"]["limit"] == 2
    after = post(api_server, path, sgg={"quotas": {"running_jobs": None, "stored_bytes": None}})["sgg"]["quotas"]
    assert after == before


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {}, "name"),
        ("", {"name": ""}, "name"),
        ("", {"name": "nul \0"}, "name"),
        ("", {"name": "x", "quota": 1}, "quota"),
        ("", {"name": "x", "sgg": {"quotas": {"running_jobs": -1}}}, "sgg.quotas.running_jobs"),
        ("", {"name": "x", "sgg": {"quotas": {"running_jobs": 2**31}}}, "sgg.quotas.running_jobs"),
        ("/proj-default/api_keys", {"name": "x", "scopes": ["everything"]}, "scopes.0"),
        ("/proj-default/api_keys", {"name": "x", "scopes": []}, "scopes"),
        ("/proj-default/api_keys", {"name": "x", "scopes": ["admin"], "expires_in_seconds": 0}, "expires_in_seconds"),
    ],
)
def test_wrong_values_are_named(api_server: ApiServer, path: str, body: dict[str, Any], param: str) -> None:
    with api_server.http() as http:
        response = http.post(PROJECTS + path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_openais_client_administers_it(api_server: ApiServer) -> None:
    client = OpenAI(base_url=api_server.base_url, api_key="unused", admin_api_key=api_server.admin_key, max_retries=0)
    admin = client.admin.organization
    project = admin.projects.create(name="Team B")
    assert admin.projects.retrieve(project.id).name == "Team B"
    assert admin.projects.update(project.id, name="Team C").name == "Team C"
    assert [one.name for one in admin.projects.list()] == ["Default", "Team C"]
    made = post(api_server, f"{PROJECTS}/{project.id}/api_keys", name="k", scopes=["jobs:read"])
    [key] = list(admin.projects.api_keys.list(project.id))
    assert (key.id, key.owner.type, key.owner_project_access) == (made["id"], "service_account", "active")
    assert admin.projects.api_keys.retrieve(key.id, project_id=project.id).name == "k"
    assert admin.projects.api_keys.delete(key.id, project_id=project.id).deleted
    entries = list(admin.audit_logs.list(resource_ids=[project.id, key.id], limit=2))
    assert [entry.type for entry in entries] == [
        "api_key.deleted",
        "api_key.created",
        "project.updated",
        "project.created",
    ]
    assert all(entry.actor and entry.actor.api_key for entry in entries)


def test_every_change_is_in_the_audit_log_with_who_what_and_where_from(api_server: ApiServer) -> None:
    file_id = api_server.file_id()
    body = {"model": "smollm2-135m-instruct", "training_file": file_id}
    with api_server.http() as http:
        created = http.post("/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": "k"})
        job_id = created.json()["id"]
        http.post("/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": "k"})
        http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
        http.delete(f"/v1/files/{file_id}")
        http.get("/v1/files")
    found = logs(api_server)
    assert [(entry["type"], entry["sgg"]["target"]) for entry in reversed(found)] == [
        ("file.created", file_id),
        ("job.created", job_id),
        ("job.created", job_id),
        ("job.cancelled", job_id),
        ("file.deleted", file_id),
    ]
    key_id = api_server.admin_key.split("_")[1]
    for entry in found:
        assert entry["project"] == {"id": DEFAULT_PROJECT_ID} and entry["actor"]["api_key"]["id"] == key_id
        assert (entry["sgg"]["outcome"], entry["sgg"]["status"]) == ("succeeded", 200)
        assert entry["sgg"]["client_address"] == "127.0.0.1" and abs(entry["effective_at"] - time.time()) < 60
    assert found[3]["sgg"]["request_id"] == created.headers["x-request-id"]
    assert [entry["id"] for entry in logs(api_server, **{"event_types[]": ["job.cancelled"]})] == [found[1]["id"]]
    assert logs(api_server, **{"resource_ids[]": [file_id]}) == [found[0], found[4]]
    assert logs(api_server, **{"project_ids[]": ["proj-other"]}) == []
    assert logs(api_server, **{"effective_at[lt]": time.time() - 3600}) == []
    assert logs(api_server, **{"effective_at[gte]": time.time() - 3600}) == found
    first, last = found[-1]["effective_at"], found[0]["effective_at"]
    for bound, is_within in (
        ("gt", lambda at: at > first),
        ("gte", lambda at: at >= last),
        ("lt", lambda at: at < last),
        ("lte", lambda at: at <= first),
    ):
        moment = first if bound in ("gt", "lte") else last
        expected = [entry for entry in found if is_within(entry["effective_at"])]
        assert logs(api_server, **{f"effective_at[{bound}]": moment}) == expected, bound
    assert logs(api_server, **{"effective_at[gt]": last}) == logs(api_server, **{"effective_at[lt]": first}) == []
    assert logs(api_server, **{"effective_at[gte]": first, "effective_at[lte]": last, "effective_at[gt]": 0}) == found
    assert get(api_server, LOGS, limit=1, after=found[1]["id"])["data"] == [found[2]]


def test_what_is_done_to_webhooks_is_in_the_audit_log_without_their_addresses(api_server: ApiServer) -> None:
    made = post(api_server, "/v1/webhook_endpoints", url="https://receiver.example/hook?token=hush")
    with api_server.http() as http:
        assert http.delete(f"/v1/webhook_endpoints/{made['id']}").status_code == 200
    found = logs(api_server, **{"resource_ids[]": [made["id"]]})
    assert [entry["type"] for entry in found] == ["endpoint.deleted", "endpoint.created"]
    assert "hush" not in repr(found)


def test_a_part_of_an_upload_is_in_the_audit_log_under_its_upload(api_server: ApiServer) -> None:
    announced = {"filename": "t.jsonl", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/jsonl"}
    upload = post(api_server, "/v1/uploads", **announced)["id"]
    with api_server.http() as http:
        part = http.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", b"nine byte")}).json()["id"]
    [added] = logs(api_server, **{"event_types[]": ["part.added"]})
    assert (added["sgg"]["target"], added["sgg"]["details"]) == (upload, {"part": part, "bytes": 9})


def test_a_change_whose_answer_fails_has_the_entries_of_both(api_settings: ApiSettings) -> None:
    def defective(job_id: str) -> None:
        raise RuntimeError("after the commit")

    with serving(api_settings, ring=defective) as server:
        file_id = server.file_id()
        answer = server.create_job(model="smollm2-135m-instruct", training_file=file_id)
        assert answer.status_code == 500
        with server.http() as http:
            [job] = http.get("/v1/fine_tuning/jobs").json()["data"]
            assert http.delete(f"/v1/files/{file_id}").status_code == 400
        found = [(entry["type"], entry["sgg"]["outcome"], entry["sgg"]["status"]) for entry in logs(server)]
        assert found == [
            ("file.deleted", "refused", 400),
            ("job.created", "failed", 500),
            ("job.created", "succeeded", 200),
            ("file.created", "succeeded", 200),
        ]
        assert job["status"] == "queued"


def test_a_change_that_is_rolled_back_leaves_no_entry_of_a_success(api_server: ApiServer) -> None:
    def break_off(session: Session) -> None:
        if session.scalars(select(JobRecord)).all():
            raise RuntimeError("before the commit")

    file_id = api_server.file_id()
    event.listen(Session, "before_commit", break_off)
    try:
        answer = api_server.create_job(model="smollm2-135m-instruct", training_file=file_id)
    finally:
        event.remove(Session, "before_commit", break_off)
    assert answer.status_code == 500
    found = [(entry["type"], entry["sgg"]["outcome"]) for entry in logs(api_server)]
    assert found == [("job.created", "failed"), ("file.created", "succeeded")]
    assert get(api_server, "/v1/fine_tuning/jobs")["data"] == []


def test_refusals_are_written_down_but_cannot_fill_the_disk(api_server: ApiServer) -> None:
    reader = api_server.new_key(["files:read"])
    with api_server.http(reader) as http:
        assert http.post("/v1/fine_tuning/jobs", json={}).status_code == 403
    with api_server.http("sgg_0123456789abcdef_wrong") as http:
        for _ in range(RefusalBudget.OF_ONE.amount + 20):
            assert http.delete("/v1/files/file-x").status_code == 401
        assert http.get("/v1/files").status_code == 401
    found = logs(api_server, **{"outcomes[]": ["refused"]})
    strangers = [entry for entry in found if entry["actor"] is None]
    assert len(strangers) == RefusalBudget.OF_ONE.amount
    assert {(entry["type"], entry["sgg"]["status"]) for entry in strangers} == {("file.deleted", 401)}
    assert found[-1]["actor"]["api_key"]["id"] == reader.split("_")[1] and found[-1]["sgg"]["status"] == 403
    with api_server.http(reader) as http:  # who is within bounds tells how many were left out
        http.post("/v1/fine_tuning/jobs", json={})
    assert logs(api_server)[0]["sgg"]["repeats"] == 20
    assert "wrong" not in get(api_server, LOGS, limit=1000)["data"].__repr__()


def test_actions_have_the_names_that_openai_gives_them() -> None:
    names = {"create_job": "job.created", "cancel_job": "job.cancelled", "pause_job": "job.paused"}
    names |= {"delete_api_key": "api_key.deleted", "complete_upload": "upload.completed", "add_part": "part.added"}
    assert {name: action_of(name) for name in names} == names
