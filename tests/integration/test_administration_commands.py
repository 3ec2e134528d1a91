"""`sgg projects`, `sgg keys` and `sgg audit` against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from api.testing import ApiServer
from cli.main import app

Sgg = Callable[..., Result]


@pytest.fixture
def sgg(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Sgg:
    monkeypatch.setenv("SGG_BASE_URL", api_server.base_url)
    monkeypatch.setenv("SGG_API_KEY", api_server.admin_key)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_project_and_its_key_from_beginning_to_end(sgg: Sgg, api_server: ApiServer) -> None:
    project = parsed(sgg("projects", "create", "Team A", "--max-running-jobs", "2", "--json"))["id"]
    assert project in sgg("projects", "list").stdout
    made = sgg("keys", "create", "--project", project, "--name", "ci", "--scope", "jobs:read", "--scope", "files:read")
    assert made.exit_code == 0, made.output
    key = made.stdout.splitlines()[0]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=api_server.url, headers=headers, trust_env=False) as http:
        assert http.get("/v1/files").json()["data"] == []
        assert http.get("/v1/organization/projects").status_code == 403
        key_id = key.split("_")[1]
        listed = sgg("keys", "list", "--project", project)
        assert key_id in listed.stdout and key.split("_", 2)[2] not in listed.stdout
        assert sgg("keys", "revoke", key_id, "--project", project).exit_code == 0
        assert http.get("/v1/files").status_code == 401
    assert parsed(sgg("keys", "list", "--project", project, "--json")) == []
    assert parsed(sgg("keys", "list", "--project", project, "--revoked", "--json"))[0]["sgg"]["status"] == "revoked"


def test_quotas_are_set_shown_and_given_back(sgg: Sgg) -> None:
    shown = sgg("projects", "set", "proj-default", "--max-queued-jobs", "5", "--name", "Main").stdout
    assert "0 of 5" in shown and "Main" in shown
    shown = sgg("projects", "set", "proj-default", "--max-queued-jobs", "default").stdout
    assert "queued jobs" in shown and "0 of 5" not in shown and "Main" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("projects", "set", "proj-default"), "nothing to set"),
        (("projects", "set", "proj-default", "--max-queued-jobs", "many"), "--max-queued-jobs"),
        (("keys", "create", "--name", "x", "--scope", "everything"), "everything"),
        (("audit", "--outcome", "good"), "good"),
    ],
)
def test_wrong_usage_is_told(sgg: Sgg, arguments: tuple[str, ...], says: str) -> None:
    result = sgg(*arguments)
    assert result.exit_code == 2 and says in result.stderr


def test_an_unknown_project_is_one_line(sgg: Sgg) -> None:
    result = sgg("projects", "show", "proj-nothing")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: There is no project with the id 'proj-nothing'.")


def test_the_audit_log_can_be_searched(sgg: Sgg, api_server: ApiServer) -> None:
    first, second = api_server.file_id(), api_server.file_id()
    with api_server.http() as http:
        http.delete(f"/v1/files/{first}")
    assert [entry["type"] for entry in parsed(sgg("audit", "--target", first, "--json"))] == [
        "file.deleted",
        "file.created",
    ]
    created = parsed(sgg("audit", "--action", "file.created", "--json"))
    assert [entry["sgg"]["target"] for entry in created] == [second, first]
    assert len(parsed(sgg("audit", "--limit", "2", "--json"))) == 2
    assert parsed(sgg("audit", "--since", "2999-01-01", "--json")) == []
    assert parsed(sgg("audit", "--outcome", "refused", "--json")) == []
    assert "file.deleted" in sgg("audit", "--key", api_server.admin_key.split("_")[1]).stdout
