"""A job's events as a live stream: complete, in order, taken up again anywhere, and over when the job is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from api.jobs import feed
from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from worker.testing import eventually

RESULTS = {"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"}


@contextmanager
def stream(server: ApiServer, job_id: str, after: str | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The stream's messages: `id` and `data` of events, `event` of the end, `comment` of keep-alives."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    path = f"/v1/fine_tuning/jobs/{job_id}/events"
    with server.http() as http, http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield messages(response)


def messages(response: httpx.Response) -> Iterator[dict[str, Any]]:
    message: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line:
            yield message
            message = {}
        elif not name:
            yield {"comment": value}
        elif name != "retry":
            message[name] = json.loads(value) if name == "data" else value


def listed(server: ApiServer, job_id: str) -> list[dict[str, Any]]:
    with server.http() as http:
        page = http.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 1000}).json()
    return list(page["data"][::-1])


def test_a_stream_ends_when_its_job_is_deleted(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    with stream(api_server, job_id) as told:
        first = next(told)
        with api_server.database.begin() as session:
            Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
            Jobs(session).delete(DEFAULT_PROJECT_ID, job_id)
        began = time.monotonic()
        assert list(told) == [] and time.monotonic() - began < feed.KEEPALIVE_SECONDS
    assert "queued" in first["data"]["message"]
    with api_server.http() as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job_id}/events").status_code == 404


def test_a_stream_tells_what_was_and_what_comes_and_ends_with_the_job(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.say(*(f"before {index}" for index in range(600)))  # more than is read at once

    def live() -> None:
        for index in range(20):
            worker.say(f"live {index}")
            time.sleep(0.02)
        worker.succeed(RESULTS)

    with stream(api_server, job_id) as told:
        writer = threading.Thread(target=live)
        writer.start()
        seen = list(told)
        writer.join()
    assert seen[-1] == {"event": "end", "data": {"status": "succeeded"}}
    assert [message["data"] for message in seen[:-1]] == listed(api_server, job_id)
    assert all(message["id"] == message["data"]["id"] for message in seen[:-1])


def test_a_stream_is_taken_up_after_any_event(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.say(*"abcdef")
    worker.succeed(RESULTS)
    everything = [event["id"] for event in listed(api_server, job_id)]
    for index, event_id in enumerate(everything[:-1]):
        with stream(api_server, job_id, after=event_id) as told:
            assert [message["id"] for message in told if "id" in message] == everything[index + 1 :]
    with api_server.http() as http:
        path = f"/v1/fine_tuning/jobs/{job_id}/events"
        done = http.get(path, params={"stream": True}, headers={"Last-Event-ID": everything[-1]})
        assert (done.status_code, done.content) == (204, b"")
        for wrong in ("nothing", f"{everything[0][:-8]}00000099", f"{everything[0][:-8]}00000000"):
            refused = http.get(path, params={"stream": True}, headers={"Last-Event-ID": wrong})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")
        assert http.get("/v1/fine_tuning/jobs/ftjob-none/events", params={"stream": True}).status_code == 404


def test_all_streams_of_a_job_hear_the_same(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    heard: list[list[str]] = [[] for _ in range(8)]

    def follow(into: list[str]) -> None:
        with stream(api_server, job_id) as told:
            into += [message["id"] for message in told if "id" in message]

    followers = [threading.Thread(target=follow, args=(into,)) for into in heard]
    for follower in followers:
        follower.start()
        worker.say("while they join")
    worker.succeed(RESULTS)
    for follower in followers:
        follower.join()
    assert heard == [[event["id"] for event in listed(api_server, job_id)]] * 8


def test_a_quiet_stream_is_kept_alive_and_a_stopping_server_ends_it(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEEPALIVE_SECONDS", 0.3)
    with serving(api_settings) as server:
        job_id = server.job_id()
        with stream(server, job_id) as told:
            assert next(told)["data"]["message"] == "The job is queued."
            assert [next(told), next(told)] == [{"comment": "still here"}] * 2
            began = time.monotonic()
            threading.Thread(target=lambda: server.stop()).start()
            assert all(message == {"comment": "still here"} for message in told)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_stream_breaks_off_when_its_key_is_revoked(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(feed, "KEEPALIVE_SECONDS", 1.0)
    with serving(api_settings) as server:
        job_id = server.job_id()
        worker = server.claim(job_id)
        key = server.new_key(["jobs:read"])
        with stream(replace(server, admin_key=key), job_id) as told:
            next(told)
            with server.http() as http:
                path = f"/v1/organization/projects/{DEFAULT_PROJECT_ID}/api_keys/{key.split('_')[1]}"
                assert http.delete(path).status_code == 200
            ended = threading.Event()

            def talk() -> None:
                while is_busy and not ended.is_set():
                    worker.say("more")
                    time.sleep(0.1)

            talker = threading.Thread(target=talk)
            talker.start()
            try:
                began = time.monotonic()
                for message in told:
                    assert message.get("event") != "end" and time.monotonic() - began < 20
            finally:
                ended.set()
                talker.join()


def test_one_poller_serves_all_streams_and_rests_without_any(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    heads = feed.EventFeed._heads

    def counted(self: feed.EventFeed, job_ids: list[str]) -> Any:
        asked.append(len(job_ids))
        return heads(self, job_ids)

    monkeypatch.setattr(feed.EventFeed, "_heads", counted)
    with serving(api_settings) as server:
        jobs = [server.job_id() for _ in range(3)]
        with stream(server, jobs[0]) as first, stream(server, jobs[1]) as second, stream(server, jobs[0]) as third:
            for told in (first, second, third):
                next(told)
            began, before = time.monotonic(), len(asked)
            time.sleep(1.5)
            looks = len(asked) - before
        assert max(asked) == 2 and looks <= (time.monotonic() - began) / feed.POLL_SECONDS + 2

        def rests() -> bool:
            before = len(asked)
            time.sleep(3 * feed.POLL_SECONDS)
            return len(asked) == before

        eventually(rests, 30)  # once it has noticed that all have gone


def test_openais_client_reads_the_stream(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "KEEPALIVE_SECONDS", 0.1)
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    threading.Timer(0.5, lambda: worker.succeed(RESULTS)).start()
    with openai.OpenAI(base_url=api_server.base_url, api_key=api_server.admin_key) as client:
        told = client.get(
            f"/fine_tuning/jobs/{job_id}/events?stream=true",
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[object],
        )
        ids = [item["id"] for item in told if isinstance(item, dict) and "id" in item]
    assert ids == [event["id"] for event in listed(api_server, job_id)]
