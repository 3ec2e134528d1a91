"""Sessions of the dashboard: what they can do, what ends them, and that no other site can use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.auth import KeyRing
from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.browser_sessions import MOST_OF_KEY, BrowserSessions
from sgg_store.database import Database
from sgg_store.keys import DEFAULT_PROJECT_ID, ApiKeys, ensure_project

JOBS = "/v1/fine_tuning/jobs"


def browser(server: ApiServer, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=server.url, trust_env=False, timeout=60, **options)


@contextmanager
def signed_in(server: ApiServer, key: str | None = None) -> Iterator[tuple[httpx.Client, str]]:
    with browser(server) as http:
        answer = http.post("/dashboard/session", json={"key": key or server.admin_key})
        assert answer.status_code == 200, answer.text
        yield http, answer.json()["csrf_token"]


def key_id(key: str) -> str:
    return key.split("_")[1]


def link(server: ApiServer, seconds: float = 600) -> str:
    with server.database.begin() as session:
        return BrowserSessions(session).make_link(key_id(server.admin_key), seconds)


def test_a_session_stands_for_its_key_and_no_more(api_server: ApiServer) -> None:
    with signed_in(api_server, api_server.new_key(["jobs:read"], name="looker")) as (http, csrf):
        told = http.get("/dashboard/session").json()
        assert (told["project_id"], told["key_name"], told["scopes"]) == (DEFAULT_PROJECT_ID, "looker", ["jobs:read"])
        assert told["csrf_token"] == csrf
        assert http.get(JOBS).status_code == 200
        refused = http.post("/v1/files", headers={"x-csrf-token": csrf}, files={"file": b"x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")


def test_the_cookie_is_for_this_server_alone(api_server: ApiServer) -> None:
    with browser(api_server) as http:
        cookie = http.post("/dashboard/session", json={"key": api_server.admin_key}).headers["set-cookie"]
        secure = http.post(
            "/dashboard/session", json={"key": api_server.admin_key}, headers={"x-forwarded-proto": "https"}
        )
    name, *attributes = (part.strip().lower() for part in cookie.split(";"))
    assert name.startswith(f"sgg_session_{httpx.URL(api_server.url).port}=")
    assert {"httponly", "samesite=strict", "path=/", "max-age=604800"} <= set(attributes)
    assert "secure" not in attributes
    assert "; secure" in secure.headers["set-cookie"].lower()
    assert api_server.admin_key not in cookie


def test_nothing_is_changed_without_the_token_that_only_the_page_knows(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    with signed_in(api_server) as (http, csrf):
        wrong = ("x", csrf[:-1], "é".encode())
        for headers in ({}, *({"x-csrf-token": token} for token in wrong), {"origin": "https://example.com"}):
            refused = http.post(f"{JOBS}/{job_id}/cancel", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site_request")
            assert http.delete("/dashboard/session", headers=headers).status_code == 403
        assert api_server.job(job_id)["status"] == "queued"
        assert http.post(f"{JOBS}/{job_id}/cancel", headers={"x-csrf-token": csrf}).json()["status"] == "cancelled"


def test_a_key_in_the_header_counts_more_than_a_session(api_server: ApiServer) -> None:
    with signed_in(api_server) as (http, _):
        assert http.get(JOBS, headers={"Authorization": "Bearer sgg_x_y"}).status_code == 401


def test_signing_out_ends_the_session_for_whoever_has_its_cookie(api_server: ApiServer) -> None:
    with signed_in(api_server) as (http, csrf):
        cookies = dict(http.cookies)
        assert http.get(JOBS).status_code == 200
        assert http.delete("/dashboard/session", headers={"x-csrf-token": csrf}).status_code == 204
    with browser(api_server, cookies=cookies) as copied:
        ended = copied.get(JOBS)
        assert (ended.status_code, ended.json()["error"]["code"]) == (401, "session_ended")
        assert copied.get("/dashboard/session").status_code == 204


def test_a_session_ends_with_its_key(api_server: ApiServer) -> None:
    key = api_server.new_key(["jobs:read"])
    with signed_in(api_server, key) as (http, _), api_server.http() as admin:
        assert http.get(JOBS).status_code == 200
        path = f"/v1/organization/projects/{DEFAULT_PROJECT_ID}/api_keys/{key_id(key)}"
        assert admin.delete(path).status_code == 200
        assert http.get(JOBS).status_code == 401
        assert http.get("/dashboard/session").status_code == 204


def test_a_link_signs_in_once(api_server: ApiServer) -> None:
    once = link(api_server)
    with browser(api_server) as http:
        assert http.post("/dashboard/session", json={"link": once}).status_code == 200
        assert http.get(JOBS).status_code == 200
    with browser(api_server) as http:
        again = http.post("/dashboard/session", json={"link": once})
        assert (again.status_code, again.json()["error"]["code"]) == (401, "session_ended")
        late = http.post("/dashboard/session", json={"link": link(api_server, -1)})
        assert late.status_code == 401
        assert http.get(JOBS).status_code == 401


def test_a_link_is_no_session_and_a_session_no_link_or_key(api_server: ApiServer) -> None:
    once = link(api_server)
    with signed_in(api_server) as (http, _):
        ((name, token),) = http.cookies.items()
    with browser(api_server, cookies={name: once}) as other:
        assert other.get(JOBS).status_code == 401
        assert other.post("/dashboard/session", json={"link": token}).status_code == 401
        assert other.get(JOBS, headers={"Authorization": f"Bearer {token}"}).status_code == 401


@pytest.mark.parametrize("body", [{}, {"key": "a", "link": "b"}, {"key": 1}, {"key": ""}, {"other": "x"}, []])
def test_signing_in_wants_one_of_two_things(api_server: ApiServer, body: Any) -> None:
    with browser(api_server) as http:
        refused = http.post("/dashboard/session", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_value"


def test_a_wrong_key_does_not_sign_in(api_server: ApiServer) -> None:
    with browser(api_server) as http:
        refused = http.post("/dashboard/session", json={"key": "sgg_0123456789abcdef_wrong"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert not http.cookies


def test_sessions_on_both_databases(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        record, _ = ApiKeys(session, b"s" * 32).create(DEFAULT_PROJECT_ID, ["jobs:read"])
        sessions = BrowserSessions(session)
        old, _ = sessions.begin(record.id, -1)
        token, ends_at = sessions.begin(record.id, 60)
        once = sessions.make_link(record.id, 60)
    keys = KeyRing(database, b"s" * 32, 0)
    assert keys.identify_session(old) is None
    assert keys.identify_session(once) is None
    identity = keys.identify_session(token)
    assert identity is not None and identity.key_id == record.id
    with database.begin() as session:
        found = BrowserSessions(session).redeem(once)
        assert found is not None and found.id == record.id
        assert BrowserSessions(session).redeem(once) is None
    assert 50 < ends_at - database.now() <= 60


def test_the_page_may_load_its_own_files_and_nothing_else(api_server: ApiServer) -> None:
    with browser(api_server) as http:
        page = http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert not re.search(r"https?://|<style|style=|onclick|<script>", page.text)
        loaded = re.findall(r'(?:href|src)="(/[^"]+)"', page.text)
        assert len(loaded) > 3
        for path in loaded:
            file = http.get(path)
            assert file.status_code == 200 and "immutable" in file.headers["cache-control"], path
            assert file.headers["x-content-type-options"] == "nosniff"
        assert http.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
        plain = http.get(loaded[-1], headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers and plain.content == http.get(loaded[-1]).content


@pytest.mark.parametrize("path", ["x/app.js", "{version}/../app.js", "{version}/%2e%2e/endpoints.py", "{version}/x"])
def test_no_other_file_is_given(api_server: ApiServer, path: str) -> None:
    with browser(api_server) as http:
        version = re.findall(r"/dashboard/(\w{16})/", http.get("/").text)[0]
        answer = http.get(f"/dashboard/{path.format(version=version)}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_signing_in_is_limited_for_each_address(api_settings: ApiSettings) -> None:
    with serving(api_settings.model_copy(update={"rate_limit": "3/hour"})) as server, browser(server) as http:
        asked = [http.post("/dashboard/session", json={"key": "wrong"}) for _ in range(4)]
        assert [answer.status_code for answer in asked] == [401, 401, 401, 429]
        assert asked[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert int(asked[-1].headers["retry-after"]) > 0
        another = http.post("/dashboard/session", json={"key": "wrong"}, headers={"x-forwarded-for": "192.0.2.7"})
        assert another.status_code == 401


def test_a_key_has_a_bounded_number_of_sessions_of_which_the_oldest_end(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        keys = [ApiKeys(session, b"s" * 32).create(DEFAULT_PROJECT_ID, ["jobs:read"])[0] for _ in range(2)]
        links = BrowserSessions(session).make_link(keys[0].id, 3600)
        others, _ = BrowserSessions(session).begin(keys[1].id, 3600)
    made = []
    for _ in range(MOST_OF_KEY + 3):
        with database.begin() as session:
            made.append(BrowserSessions(session).begin(keys[0].id, 3600)[0])
    with database.begin() as session:
        sessions = BrowserSessions(session)
        assert [sessions.find(token) is not None for token in made] == [False] * 3 + [True] * MOST_OF_KEY
        assert sessions.find(others) is not None and sessions.redeem(links) is not None


def test_strangers_can_send_little_and_are_told_little(api_server: ApiServer) -> None:
    with browser(api_server) as http:
        large = http.post("/dashboard/session", json=dict.fromkeys(map(str, range(100_000)), 0))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        small = http.post("/dashboard/session", json=dict.fromkeys(map(str, range(400)), 0))
        assert small.status_code == 400 and len(small.content) < 40_000
        assert "There are 300 more problems." in small.json()["error"]["message"]
