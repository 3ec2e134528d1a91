"""What `benchmarks/load.py` asks with: clients as light as they can be, and the times that they take."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
from sqlalchemy import text

from sgg_store.database import Database

NAME = {"name": "sgg-load"}
"""What Postgres calls the connections of the server under load."""

ROWS = [{"text": f"The {thing} was {word}.", "label": label}
        for thing in ("film", "meal", "room", "book", "trip", "song", "game", "show")
        for word, label in (("wonderful", "good"), ("dreadful", "bad"))]  # fmt: skip
BOUNDARY = "load-benchmark"


@dataclass
class Site:
    """A server on a fresh schema, and how to reach both."""

    url: str
    key: str
    database: Database
    environment: dict[str, str]
    process: psutil.Process

    def memory_mb(self) -> int:
        """Resident memory of the server's processes, what they share counted in each."""
        processes = [self.process, *self.process.children(recursive=True)]
        return round(sum(process.memory_info().rss for process in processes) / 2**20)

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far: the server's processes, the database's for them, and this one with the clients."""
        server = [self.process, *self.process.children(recursive=True)]
        with self.database.read() as session:
            names = session.execute(text("SELECT pid FROM pg_stat_activity WHERE application_name = :name"), NAME)
            backends = [psutil.Process(pid) for pid in names.scalars()]
        used = {"server": server, "database": backends, "client": [psutil.Process()]}
        return {who: sum(sum(each.cpu_times()[:2]) for each in processes) for who, processes in used.items()}


class Client:
    """One kept-alive connection, as light as a client can be: what is measured is the server."""

    server_seconds = 0.0
    """How long the server says that the last answer took, from the request's headers to the answer's."""

    def __init__(self, site: Site) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)
        self._headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        """Send one request and give the answer's JSON."""
        headers = self._headers | ({"Content-Type": content_type} if content_type else {})
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        self.server_seconds = int(answer.headers["openai-processing-ms"]) / 1000
        return json.loads(content)

    def begin_stream(self, path: str) -> None:
        """Ask for a stream, and wait for its first line. It stays open as long as this client lives."""
        self._connection.request("GET", path, headers=self._headers | {"Accept": "text/event-stream"})
        answer = self._connection.getresponse()
        line = answer.readline()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status} {line[:300]!r}")

    def upload(self) -> str:
        """Upload a small data file and give its id."""
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        parts = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="train.jsonl"\r\n\r\n{lines}\r\n'
            f"--{BOUNDARY}--\r\n"
        )
        answer = self.call("POST", "/v1/files", parts.encode(), f"multipart/form-data; boundary={BOUNDARY}")
        return str(answer["id"])


@dataclass
class Times:
    """Durations of one kind of request, in seconds: as the client saw them, and as the server tells them."""

    seconds: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)

    def measure(self, client: Client, method: str, path: str, body: bytes | None = None) -> Any:
        began = time.perf_counter()
        result = client.call(method, path, body)
        self.seconds.append(time.perf_counter() - began)
        self.server.append(client.server_seconds)
        return result

    def figures(self) -> dict[str, float]:
        told = quantiles(self.server, "server_") if self.server else {}
        return {
            "count": len(self.seconds),
            **quantiles(self.seconds),
            "worst_ms": round(1000 * max(self.seconds), 1),
            **told,
        }


def quantiles(seconds: list[float], prefix: str = "") -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{prefix}p{share}_ms": round(1000 * cuts[share - 1], 1) for share in (50, 95, 99)}


def in_threads(count: int, work: Callable[[int], None]) -> float:
    """Run `work` in so many threads at once; give the seconds it took. Raises what any of them raised."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began
