"""Webhooks: signed so that OpenAI's client believes them, sent until taken, and kept away from private addresses."""

from __future__ import annotations

import http.server
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from api.webhooks.guard import ERRORS, AddressRule, post
from api.webhooks.sender import SLOTS, SLOTS_OF_PROJECT
from sgg_store import webhooks as stored
from sgg_store.announcements import EVENT_TYPES
from sgg_store.cleaning import Cleaner
from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError, StoreError
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.leases import JobResult, Leases
from sgg_store.local_objects import LocalObjectStore
from sgg_store.records import DeliveryState, WebhookDeliveryRecord
from sgg_store.settings import StoreSettings
from sgg_store.testing import add_job

RESULTS = {"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"}


class Receiver:
    """An HTTP server that keeps what it is sent, and answers with the next of `statuses`, then 200."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.statuses: list[int] = []
        self.pause = 0.0
        self.at_once = self.most_at_once = 0
        counting = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with counting:
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                outer.paths.append(self.path)
                outer.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                time.sleep(outer.pause)
                with counting:
                    outer.at_once -= 1
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_job_goes_on_while_an_endpoint_is_deleted(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
        endpoint = stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com", EVENT_TYPES, None).id
    deleted = threading.Event()

    def delete() -> None:
        with database.begin() as session:
            stored.Webhooks(session).delete(DEFAULT_PROJECT_ID, endpoint)
            deleted.set()
            time.sleep(0.5)

    thread = threading.Thread(target=delete)
    thread.start()
    assert deleted.wait(30)
    with database.begin() as session:
        assert Leases(session).claim(job_id, "w") is not None
    thread.join()
    with database.read() as session:
        assert Jobs(session).get(DEFAULT_PROJECT_ID, job_id).status == "running"
        assert stored.Webhooks(session).list_all(DEFAULT_PROJECT_ID) == []


def test_deliveries_that_ended_long_ago_are_forgotten(database: Database, objects: LocalObjectStore) -> None:
    """One that is still tried stays, however old, and so do the others for thirty days."""
    day = 86_400.0
    kept: list[str] = []
    with database.begin() as session:
        job_id = add_job(session).id
        endpoint = stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com", EVENT_TYPES, None).id
        facts = {"endpoint_id": endpoint, "event_id": "evt", "job_id": job_id, "type": EVENT_TYPES[0], "data": {}}
        for state in DeliveryState:
            for days in (29, 31):
                row = WebhookDeliveryRecord(id=f"{state}-{days}", state=state, **facts)
                row.next_attempt_at = time.time() - days * day
                session.add(row)
                kept += [row.id] if days == 29 or state is DeliveryState.PENDING else []
    Cleaner(database, objects, StoreSettings()).run()
    with database.read() as session:
        assert sorted(session.scalars(select(WebhookDeliveryRecord.id))) == sorted(kept)


def test_deliveries_outlive_the_job_that_they_tell_of(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
        endpoint = stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com", EVENT_TYPES, None).id
    with database.begin() as session:
        claimed = Leases(session).claim(job_id, "w")
        assert claimed is not None
        Leases(session).fail(claimed.lease, "broken", "It broke.")
    with database.begin() as session:
        Jobs(session).delete(DEFAULT_PROJECT_ID, job_id)
    with database.read() as session:
        rows = stored.Webhooks(session).deliveries(DEFAULT_PROJECT_ID, endpoint).items
    assert rows and {(row.job_id, row.state) for row in rows} == {(job_id, DeliveryState.PENDING)}
    with database.begin() as session:
        due = stored.Webhooks(session).claim_due(DEFAULT_PROJECT_ID, (), 60)
    assert due is not None and due.delivery.job_id == job_id


def test_endpoints_that_take_nothing_come_after_those_that_do(database: Database) -> None:
    with database.begin() as session:
        webhooks, jobs = stored.Webhooks(session), [add_job(session).id for _ in range(3)]
        dead, alive = (webhooks.add(DEFAULT_PROJECT_ID, f"https://example.com/{n}", EVENT_TYPES, None).id for n in "da")
        for job_id in jobs:
            assert Leases(session).claim(job_id, "w") is not None

    def send(*busy: str) -> str:
        with database.begin() as session:
            due = stored.Webhooks(session).claim_due(DEFAULT_PROJECT_ID, busy, 60.0)
        assert due is not None
        outcome = stored.Outcome(None, "Timeout", 10.0) if due.endpoint.id == dead else stored.Outcome(200, None, 0.1)
        with database.begin() as session:
            stored.Webhooks(session).record(due, outcome)
        return due.endpoint.id

    assert send(alive) == dead
    assert [send() for _ in range(5)] == [alive, alive, alive, dead, dead]


def test_a_delivery_is_waited_for_by_its_project_until_nothing_can_be_sent(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session, "proj-other")
        webhooks, jobs = stored.Webhooks(session), [add_job(session).id for _ in range(2)]
        mine = webhooks.add(DEFAULT_PROJECT_ID, "https://example.com/", EVENT_TYPES, None).id
        webhooks.add("proj-other", "https://example.com/", EVENT_TYPES, None)
        for job_id in jobs:
            lease = Leases(session).claim(job_id, "w").lease  # type: ignore[union-attr]
            Leases(session).fail(lease, "training_diverged", "NaN")

    def claim(project_id: str, *busy: str) -> stored.Due | None:
        with database.begin() as session:
            return stored.Webhooks(session).claim_due(project_id, busy, 60.0)

    def waiting(*busy: str) -> list[str]:
        with database.read() as session:
            return stored.Webhooks(session).waiting_projects(busy)

    assert waiting(mine) == [] and claim(DEFAULT_PROJECT_ID, mine) is None
    assert waiting() == [DEFAULT_PROJECT_ID] and claim("proj-other") is None
    with ThreadPoolExecutor(4) as pool:
        taken = [due.delivery for due in pool.map(lambda _: claim(DEFAULT_PROJECT_ID), range(4)) if due is not None]
    assert sorted(delivery.job_id for delivery in taken) == sorted(jobs)
    assert {delivery.type for delivery in taken} == {"fine_tuning.job.started"}
    assert waiting() == []  # what follows them waits until they are through


def test_a_project_sends_no_delivery_of_another_again_through_an_endpoint_of_its_own(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        mine = stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com/", EVENT_TYPES, None).id
        ensure_project(session, "proj-other")
        stored.Webhooks(session).add("proj-other", "https://example.com/", EVENT_TYPES, None)
        assert Leases(session).claim(add_job(session, "proj-other").id, "w") is not None
        session.execute(update(WebhookDeliveryRecord).values(state=DeliveryState.FAILED))
        theirs = session.scalars(select(WebhookDeliveryRecord.id)).one()
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        stored.Webhooks(session).resend(DEFAULT_PROJECT_ID, mine, theirs)


def test_a_sender_that_was_late_says_nothing_of_an_attempt_that_another_has_begun_meanwhile(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com/", EVENT_TYPES, None)
        assert Leases(session).claim(add_job(session).id, "w") is not None

    def claim() -> stored.Due:
        with database.begin() as session:
            due = stored.Webhooks(session).claim_due(DEFAULT_PROJECT_ID, (), hold_seconds=-1.0)
        assert due is not None
        return due

    late, again = claim(), claim()
    assert (late.delivery.id, late.attempt, again.attempt) == (again.delivery.id, 1, 2)
    for due, state, attempts in ((late, DeliveryState.PENDING, 0), (again, DeliveryState.DELIVERED, 1)):
        with database.begin() as session:
            stored.Webhooks(session).record(due, stored.Outcome(200, None, 0.1))
        with database.read() as session:
            delivery = session.get_one(WebhookDeliveryRecord, due.delivery.id)
        assert (delivery.state, len(delivery.log)) == (state, attempts)


def test_what_an_endpoint_did_not_take_waits_while_it_is_disabled(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        endpoint = stored.Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.com/", EVENT_TYPES, None).id
        assert Leases(session).claim(add_job(session).id, "w") is not None

    def claim() -> stored.Due | None:
        with database.begin() as session:
            return stored.Webhooks(session).claim_due(DEFAULT_PROJECT_ID, (), 60.0)

    def waiting() -> list[str]:
        with database.read() as session:
            return stored.Webhooks(session).waiting_projects(())

    first = claim()
    assert first is not None
    with database.begin() as session:
        stored.Webhooks(session).record(first, stored.Outcome(500, None, 0.1))
        stored.Webhooks(session).get(DEFAULT_PROJECT_ID, endpoint).enabled = False
        session.execute(update(WebhookDeliveryRecord).values(next_attempt_at=0.0))
    assert waiting() == [] and claim() is None
    with database.begin() as session:
        stored.Webhooks(session).get(DEFAULT_PROJECT_ID, endpoint).enabled = True
    assert waiting() == [DEFAULT_PROJECT_ID]
    again = claim()
    assert again is not None and (again.delivery.id, again.attempt) == (first.delivery.id, 2)


@pytest.fixture
def open_settings(api_settings: ApiSettings) -> ApiSettings:
    return api_settings.model_copy(
        update={"webhook_private_addresses": True, "webhook_poll_seconds": 0.05, "webhook_timeout_seconds": 1.0}
    )


@pytest.fixture
def server(open_settings: ApiSettings) -> Iterator[ApiServer]:
    with serving(open_settings) as started:
        yield started


def add(server: ApiServer, url: str, key: str | None = None, **body: Any) -> dict[str, Any]:
    with server.http(key) as http:
        answer = http.post("/v1/webhook_endpoints", json={"url": url} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def deliveries(server: ApiServer, endpoint: dict[str, Any]) -> list[dict[str, Any]]:
    with server.http() as http:
        return list(http.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries").json()["data"])


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def settled(server: ApiServer, endpoint: dict[str, Any], count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def done() -> bool:
        found[:] = deliveries(server, endpoint)
        return len(found) == count and all(one["state"] != "pending" for one in found)

    until(done)
    return found


def test_openais_client_believes_every_event_of_a_job_and_they_come_in_order(
    server: ApiServer, receiver: Receiver
) -> None:
    endpoint = add(server, receiver.url)
    jobs = [server.job_id() for _ in range(3)]
    worker = server.claim(jobs[0])
    worker.checkpoint(4)
    worker.succeed(RESULTS)
    server.claim(jobs[1]).fail("training_diverged", "NaN")
    with server.http() as http:
        http.post(f"/v1/fine_tuning/jobs/{jobs[2]}/cancel")
    settled(server, endpoint, 6)
    with openai.OpenAI(api_key="-", webhook_secret=endpoint["secret"]) as client:
        for headers, body in receiver.taken:
            assert client.webhooks.unwrap(body, headers).id == headers["webhook-id"]
            with pytest.raises(openai.InvalidWebhookSignatureError):
                client.webhooks.unwrap(body.replace(b"ftjob-", b"ftjob+"), headers)
        ended = client.webhooks.unwrap(*receiver.taken[-1][::-1])
    assert ended.type == "fine_tuning.job.cancelled" and ended.data.id == jobs[2]  # type: ignore[union-attr]
    told = [(event["data"]["id"], event["type"].rpartition(".")[2]) for event in receiver.events()]
    assert [type_ for job_id, type_ in told if job_id == jobs[0]] == ["started", "checkpoint", "succeeded"]
    assert [type_ for job_id, type_ in told if job_id == jobs[1]] == ["started", "failed"]
    checkpoint = next(event["data"] for event in receiver.events() if event["type"].endswith("checkpoint"))
    assert checkpoint["sgg"]["step_number"] == 4


def test_what_is_not_taken_is_sent_again_the_same_until_it_is(
    server: ApiServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAUSES", (0.1,) * 5)
    receiver.statuses = [500, 302, 404]
    endpoint = add(server, receiver.url, events=["fine_tuning.job.started", "fine_tuning.job.failed"])
    server.claim(server.job_id()).fail("training_diverged", "NaN")
    failed, started = settled(server, endpoint, 2)
    assert [attempt["status"] for attempt in started["attempts"]] == [500, 302, 404, 200]
    assert [attempt["status"] for attempt in failed["attempts"]] == [200]
    assert len({(headers["webhook-id"], body) for headers, body in receiver.taken[:4]}) == 1
    assert [event["type"] for event in receiver.events()] == ["fine_tuning.job.started"] * 4 + [
        "fine_tuning.job.failed"
    ]


def test_what_was_given_up_can_be_sent_again(
    server: ApiServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAUSES", (0.05, 0.05))
    receiver.statuses = [503, 503, 503]
    endpoint = add(server, receiver.url, events=["fine_tuning.job.started"])
    server.claim(server.job_id())
    (given_up,) = settled(server, endpoint, 1)
    assert (given_up["state"], len(given_up["attempts"])) == ("failed", 3)
    with server.http() as http:
        path = f"/v1/webhook_endpoints/{endpoint['id']}/deliveries/{given_up['id']}/resend"
        assert http.post(path).json()["state"] == "pending"
        (again,) = settled(server, endpoint, 1)
        assert (again["state"], len(again["attempts"])) == ("delivered", 4)
        receiver.pause = 0.5
        assert http.post(path).status_code == 200
        pending = http.post(path)
        assert (pending.status_code, pending.json()["error"]["code"]) == (400, "delivery_pending")
        assert http.post(path.replace(given_up["id"], "whdel_none")).status_code == 404


def test_an_event_is_told_exactly_if_it_happened(server: ApiServer, receiver: Receiver) -> None:
    endpoint = add(server, receiver.url, events=["fine_tuning.job.succeeded"])
    worker = server.claim(server.job_id())
    with pytest.raises(StoreError), server.database.begin() as session:
        Leases(session).succeed(worker.lease, JobResult(fine_tuned_model="x", trained_tokens=1, result_file_ids=()))
        raise StoreError("the transaction fails")
    assert deliveries(server, endpoint) == []
    worker.succeed(RESULTS)
    assert len(settled(server, endpoint, 1)) == 1


def test_what_happens_while_no_server_runs_is_told_later(open_settings: ApiSettings, receiver: Receiver) -> None:
    with serving(open_settings) as server:
        endpoint = add(server, receiver.url)
        job_id = server.job_id()
        lease = server.claim(job_id).lease
        settled(server, endpoint, 1)
        database = server.database
    with database.begin() as session:
        Leases(session).fail(lease, "training_diverged", "NaN")
    with serving(open_settings) as server:
        settled(server, endpoint, 2)
    assert [event["type"].rpartition(".")[2] for event in receiver.events()] == ["started", "failed"]


def test_a_silent_receiver_holds_up_nobody_but_itself(server: ApiServer, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and never answers
        silent = add(server, f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        heard = add(server, receiver.url)
        server.claim(server.job_id()).fail("training_diverged", "NaN")
        began = time.monotonic()
        settled(server, heard, 2)
        assert time.monotonic() - began < 5
        until(lambda: any(one["attempts"] for one in deliveries(server, silent)))
        tried = [one for one in deliveries(server, silent) if one["attempts"]]
    (attempt,) = tried[0]["attempts"]
    assert len(tried) == 1 and attempt["status"] is None and "Timeout" in attempt["error"]
    assert 0.8 < attempt["seconds"] < 3


def test_slow_receivers_of_one_project_leave_slots_to_the_others(server: ApiServer, receiver: Receiver) -> None:
    other = server.new_key(project_id="proj-other")
    with closing(Receiver()) as slow:
        slow.pause = 0.5
        for _ in range(SLOTS + 2):
            add(server, slow.url, key=other)
        heard = add(server, receiver.url)
        with server.database.begin() as session:
            jobs = [add_job(session, project_id="proj-other").id for _ in range(2)]
        for job_id in jobs:
            server.claim(job_id)
        until(lambda: slow.at_once)
        server.claim(server.job_id())
        began = time.monotonic()
        settled(server, heard, 1)
        assert time.monotonic() - began < 2
        until(lambda: len(slow.taken) >= 2 * (SLOTS + 2))
        assert slow.most_at_once == SLOTS_OF_PROJECT


def test_projects_take_turns(open_settings: ApiSettings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.webhooks.sender.SLOTS", 1)
    projects = [DEFAULT_PROJECT_ID, "proj-second", "proj-third"]
    with serving(open_settings) as server:
        database = server.database
        for project_id in projects:
            add(server, f"{receiver.url}/{project_id}", key=server.new_key(project_id=project_id))
    with database.begin() as session:
        for project_id in projects:  # whose events are older than those of the projects after it
            for _ in range(3):
                assert Leases(session).claim(add_job(session, project_id=project_id).id, "w") is not None
    with serving(open_settings):
        until(lambda: len(receiver.taken) == 9)
    told = [path.rpartition("/")[2] for path in receiver.paths]
    assert [sorted(told[first : first + 3]) for first in (0, 3, 6)] == [sorted(projects)] * 3


def test_secrets_are_shown_once_and_rotate_without_a_gap(server: ApiServer, receiver: Receiver) -> None:
    endpoint = add(server, receiver.url, description="mine")
    with server.http() as http:
        path = f"/v1/webhook_endpoints/{endpoint['id']}"
        assert "secret" not in http.get(path).json()
        assert "secret" not in http.get("/v1/webhook_endpoints").json()["data"][0]
        rotated = http.post(f"{path}/rotate_secret").json()
    server.claim(server.job_id())
    settled(server, endpoint, 1)
    headers, body = receiver.taken[0]
    assert rotated["secret"] != endpoint["secret"]
    for secret in (rotated["secret"], endpoint["secret"]):
        with openai.OpenAI(api_key="-", webhook_secret=secret) as client:
            assert client.webhooks.unwrap(body, headers).id == headers["webhook-id"]
    database = (server.settings.database_url.removeprefix("sqlite:///"), "-wal")
    for part in (database[0], "".join(database)):
        with open(part, "rb") as stream:  # noqa: PTH123 (its name is a database's address)
            assert endpoint["secret"].removeprefix("whsec_").encode() not in stream.read()


def test_endpoints_change_end_and_belong_to_their_project(server: ApiServer, receiver: Receiver) -> None:
    other_key = server.new_key(project_id="proj-other")
    foreign = add(server, receiver.url, key=other_key)
    endpoint = add(server, receiver.url, enabled=False)
    with server.http() as http:
        path = "/v1/webhook_endpoints"
        assert [one["id"] for one in http.get(path).json()["data"]] == [endpoint["id"]]
        for method, end in (
            ("GET", ""),
            ("POST", ""),
            ("DELETE", ""),
            ("GET", "/deliveries"),
            ("POST", "/rotate_secret"),
        ):
            assert http.request(method, f"{path}/{foreign['id']}{end}", json={}).status_code == 404
        server.claim(server.job_id())
        changed = http.post(f"{path}/{endpoint['id']}", json={"enabled": True, "events": ["fine_tuning.job.started"]})
        assert (changed.json()["enabled"], changed.json()["events"]) == (True, ["fine_tuning.job.started"])
        server.claim(server.job_id())
        assert len(settled(server, endpoint, 1)) == 1
        assert http.delete(f"{path}/{endpoint['id']}").json()["deleted"] is True
        assert http.get(f"{path}/{endpoint['id']}").status_code == 404
        for _ in range(stored.MOST_ENDPOINTS):
            add(server, receiver.url)
        refused = http.post(path, json={"url": receiver.url})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_webhook_endpoints")
    assert len(receiver.taken) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.1:8443/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:192.168.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "file:///etc/passwd",
        "example.com",
        "https://",
        "https://example.com:99999/",
        "https://exämple.com/",
    ],
)
def test_addresses_that_nobody_may_choose_are_refused(api_server: ApiServer, url: str) -> None:
    with api_server.http() as http:
        answer = http.post("/v1/webhook_endpoints", json={"url": url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url")


NOT_PUBLIC = ["fec0::1", "192.0.0.9", "192.88.99.1", "3fff::1"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "fd00::1", *NOT_PUBLIC])
@pytest.mark.parametrize("private", [True, False])
def test_addresses_inside_are_open_to_those_whom_the_administrator_lets_in(address: str, private: bool) -> None:
    assert AddressRule(private).allows(ipaddress.ip_address(address)) is private


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"])
def test_public_addresses_are_open(address: str) -> None:
    assert AddressRule(private=False).allows(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0", "5f00::1", "64:ff9b:1::1", "224.0.0.1"])
@pytest.mark.parametrize("private", [True, False])
def test_some_addresses_are_open_to_nobody(address: str, private: bool) -> None:
    assert not AddressRule(private).allows(ipaddress.ip_address(address))


def test_a_name_that_nobody_looks_up_in_time_ends_with_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: never.wait(30))
    began = time.monotonic()
    with pytest.raises(ERRORS):
        post("https://example.com/", b"{}", {}, AddressRule(private=False), 0.2)
    assert time.monotonic() - began < 5
    never.set()


def test_a_public_name_that_leads_inside_is_not_followed(
    open_settings: ApiSettings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAUSES", ())
    strict = open_settings.model_copy(update={"webhook_private_addresses": False})
    with serving(strict) as server:
        endpoint = add(server, f"https://localhost:{receiver.port}/hook")
        server.claim(server.job_id())
        (refused,) = settled(server, endpoint, 1)
    assert refused["state"] == "failed" and "may not reach" in refused["attempts"][0]["error"]
    assert receiver.taken == []


def test_an_endpoint_from_before_the_administrator_closed_the_door_is_not_reached(
    open_settings: ApiSettings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAUSES", ())
    with serving(open_settings) as server:
        endpoint = add(server, "http://example.com/hook")
    with serving(open_settings.model_copy(update={"webhook_private_addresses": False})) as server:
        server.claim(server.job_id())
        (refused,) = settled(server, endpoint, 1)
    assert "must be an absolute https URL" in refused["attempts"][0]["error"]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_two_servers_share_the_work_and_send_nothing_twice(
    open_settings: ApiSettings, receiver: Receiver, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    settings = open_settings.model_copy(update={"database_url": url})
    with serving(settings) as one, serving(settings):
        endpoint = add(one, receiver.url)
        training_file = one.file_id()
        jobs = [one.job_id(training_file=training_file) for _ in range(10)]
        for job_id in jobs:
            one.claim(job_id).fail("training_diverged", "NaN")
        settled(one, endpoint, 20)
    assert len(receiver.taken) == len({headers["webhook-id"] for headers, _ in receiver.taken}) == 20
    for job_id in jobs:
        types = [event["type"].rpartition(".")[2] for event in receiver.events() if event["data"]["id"] == job_id]
        assert types == ["started", "failed"]
