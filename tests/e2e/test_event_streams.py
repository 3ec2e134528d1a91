"""Streams of events of a server in a process of its own: many at once, and across its death."""

import json
import threading
import time

import httpx
import psutil

STREAMS = 200
MEGABYTE = 2**20
SLOW = (
    "optimization.max_steps=200",
    "optimization.epochs=50",
    "optimization.batch_size=1",
    "task.max_tokens=256",
    "checkpoint.every_steps=20",
)


class Follower:
    """Reads a job's stream as a browser does: whenever it breaks off, it comes again with the last event's id."""

    def __init__(self, service, job_id):
        self.url = f"{service.url}/fine_tuning/jobs/{job_id}/events"
        self.headers = {
            "Authorization": f"Bearer {(service.data_dir / 'admin-key').read_text().strip()}",
            "Accept": "text/event-stream",
        }
        self.ids = []
        self.connections = 0
        self.status = None

    def follow(self):
        while self.status is None:
            try:
                self._read()
            except httpx.TransportError:
                time.sleep(0.1)

    def _read(self):
        after = {"Last-Event-ID": self.ids[-1]} if self.ids else {}
        with httpx.stream("GET", self.url, headers=self.headers | after, timeout=30) as response:
            assert response.status_code == 200
            self.connections += 1
            event = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    event[name] = value
                    continue
                if event.get("event") == "end":
                    self.status = json.loads(event["data"])["status"]
                    return
                self.ids.append(event["id"])
                event = {}


def test_no_event_is_lost_or_doubled_when_the_server_dies_under_a_stream(own_service, tickets):
    job_id = own_service.submit(tickets, *SLOW)
    followers = [Follower(own_service, job_id) for _ in range(3)]
    threads = [threading.Thread(target=follower.follow) for follower in followers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 120
    while min(len(follower.ids) for follower in followers) <= 30 and time.monotonic() < deadline:
        time.sleep(0.05)
    own_service.kill()
    told_before = [len(follower.ids) for follower in followers]
    assert min(told_before) > 30
    own_service.start()
    for thread in threads:
        thread.join(120)
    every = []
    with httpx.Client(headers=followers[0].headers | {"Accept": "application/json"}) as http:
        page = {"has_more": True}
        while page["has_more"]:
            after = {"after": every[-1]} if every else {}
            page = http.get(followers[0].url, params={"limit": 500} | after).json()
            every += [event["id"] for event in page["data"]]
    for follower in followers:
        assert (follower.ids, follower.status) == (every[::-1], "succeeded")
        assert follower.connections == 2


def test_two_hundred_streams_share_memory_and_threads(service, tickets):
    job_id = service.submit(tickets, *SLOW)
    service.wait_for_step(job_id, 10)
    server = psutil.Process(service.process.pid)
    threads_before = server.num_threads()
    follower = Follower(service, job_id)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with httpx.Client(headers=follower.headers, timeout=60, limits=limits) as http:
        streams = [http.send(http.build_request("GET", follower.url), stream=True) for _ in range(STREAMS)]
        lines = [stream.iter_lines() for stream in streams]
        for _ in range(36):  # three lines each: a dozen events of each stream
            assert all(isinstance(next(each), str) for each in lines)
        memory, threads = server.memory_info().rss, server.num_threads()
        for stream in streams:
            stream.close()
    print(f"{STREAMS} streams: {memory / MEGABYTE:.0f} MB, {threads} threads ({threads_before} before)")
    assert memory < 400 * MEGABYTE
    assert threads <= threads_before + 45  # the pool that all requests share has 40
    service.sgg("jobs", "cancel", job_id)
