"""A real HTTP server on a free port, with a real database and object store, and a worker's hands: for tests."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from api.app import create_app
from api.connections import Connection
from api.server import Server
from api.settings import ApiSettings
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store import ids
from sgg_store.attempts import Lease
from sgg_store.checkpoints import ADAPTER_FILES, Checkpoints
from sgg_store.database import Database
from sgg_store.events import Events, NewEvent
from sgg_store.files import Files
from sgg_store.keys import DEFAULT_PROJECT_ID, ApiKeys, ensure_admin_key, ensure_project, load_key_secret
from sgg_store.leases import JobResult, Leases
from sgg_store.metrics import Metrics
from sgg_store.objects import ObjectStore, checkpoint_prefix, open_object_store, result_key
from sgg_store.retries import Cause

TLS = ssl.create_default_context()
"""For all clients of tests: each would read the certificates anew, which takes longer than its requests."""


def jsonl(*rows: dict[str, Any]) -> bytes:
    """Write rows as a JSONL file."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def labelled(count: int = 8, labels: Collection[str] = ("good", "bad")) -> bytes:
    """Make a classification file with `count` examples of each label."""
    return jsonl(*({"text": f"example {index} of {name}", "label": name} for index in range(count) for name in labels))


@dataclass
class ApiServer:
    """The server under test. `rings` holds the ids of the jobs whose doorbell it rang."""

    url: str
    settings: ApiSettings
    database: Database
    objects: ObjectStore
    admin_key: str
    rings: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None
    """Ends the server as SIGTERM does; `serving` waits for its end."""

    @property
    def base_url(self) -> str:
        """What OpenAI's client is given."""
        return f"{self.url}/v1"

    def http(self, key: str | None = None) -> httpx.Client:
        """Open a client that sends the key (by default the administrator's)."""
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=TLS, trust_env=False, timeout=60)

    def new_key(
        self, scopes: Collection[str] = ("admin",), project_id: str = DEFAULT_PROJECT_ID, **options: Any
    ) -> str:
        """Make an API key, and its project if need be."""
        with self.database.begin() as session:
            ensure_project(session, project_id)
            return ApiKeys(session, load_key_secret(self.settings.data_dir)).create(project_id, scopes, **options)[1]

    def upload(self, content: bytes, filename: str = "train.jsonl", key: str | None = None) -> httpx.Response:
        """Upload a file."""
        with self.http(key) as http:
            return http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (filename, content)})

    def file_id(self, content: bytes | None = None, filename: str = "train.jsonl", key: str | None = None) -> str:
        """Upload a good file and give its id."""
        response = self.upload(labelled() if content is None else content, filename, key)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def create_job(self, key: str | None = None, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Ask for a job with exactly this body."""
        content = json.dumps(body)  # ASCII, so that any text can be sent
        with self.http(key) as http:
            headers = {"content-type": "application/json"} | (headers or {})
            return http.post("/v1/fine_tuning/jobs", content=content, headers=headers)

    def job_id(self, **body: Any) -> str:
        """Create a job, on a file of its own unless one is named, and give its id."""
        defaults = {"model": "smollm2-135m-instruct"}
        if "training_file" not in body:
            defaults["training_file"] = self.file_id()
        response = self.create_job(**(defaults | body))
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Retrieve a job."""
        with self.http() as http:
            return dict(http.get(f"/v1/fine_tuning/jobs/{job_id}").json())

    def claim(self, job_id: str) -> HandWorker:
        """Take a queued job as a worker does."""
        with self.database.begin() as session:
            claim = Leases(session).claim(job_id, "by-hand")
        assert claim is not None
        return HandWorker(self, claim.lease)


@dataclass
class HandWorker:
    """Writes about a job under its lease, as a worker does, with figures that are easy to recognise."""

    server: ApiServer
    lease: Lease

    def step(self, step: int, total_steps: int = 10, seconds: float = 2.0) -> None:
        """Report one step that took so long, and one evaluation."""
        metrics = StepMetrics(
            step=step,
            total_steps=total_steps,
            epoch=step / total_steps,
            train_loss=1 / step,
            train_accuracy=0.5,
            learning_rate=1e-4,
            gradient_norm=0.5,
            seconds=seconds,
            tokens=10,
        )
        evaluation = EvaluationMetrics(step=step, valid_loss=2 / step, valid_accuracy=0.75, examples=4)
        with self.server.database.begin() as session:
            Metrics(session).append(self.lease, [metrics, evaluation])

    def say(self, *messages: str) -> None:
        """Add events."""
        with self.server.database.begin() as session:
            Events(session).append(self.lease, [NewEvent(message) for message in messages])

    def checkpoint(self, step: int) -> None:
        """Store and record a checkpoint."""
        prefix = checkpoint_prefix(self.lease, f"step-{step:08d}")
        for name in ("state.json", *ADAPTER_FILES):
            self.server.objects.put(f"{prefix}/{name}", b"{}")
        with self.server.database.begin() as session:
            manifest = {name: {"bytes": 2, "sha256": "0" * 64} for name in ("state.json", *ADAPTER_FILES)}
            Checkpoints(session).append(self.lease, step, prefix, manifest, {"step": step, "train_loss": 1 / step})

    def succeed(self, results: dict[str, bytes], **final_figures: float) -> str:
        """Publish result files and end the job; give the name of the model."""
        files = {name: ids.new_id("file-") for name in results}
        for name, content in results.items():
            self.server.objects.put(result_key(self.lease, name), content)
        with self.server.database.begin() as session:
            for name, content in results.items():
                Files(session).add(
                    file_id=files[name],
                    project_id=self.lease.project_id,
                    filename=name,
                    purpose="fine-tune-results",
                    bytes=len(content),
                    sha256="ab" * 32,
                    object_key=result_key(self.lease, name),
                )
            model = f"ft:base:project::{self.lease.job_id[-12:]}"
            result = JobResult(
                fine_tuned_model=model,
                trained_tokens=123,
                result_file_ids=tuple(files.values()),
                final_figures=final_figures,
            )
            Leases(session).succeed(self.lease, result)
        return model

    def fail(self, code: str, message: str, cause: Cause = Cause.USER) -> None:
        """End the job without a result."""
        with self.server.database.begin() as session:
            Leases(session).fail(self.lease, code, message, cause)

    def stop(self) -> None:
        """Obey a cancellation."""
        with self.server.database.begin() as session:
            assert Leases(session).heartbeat(self.lease).cancel_requested
            Leases(session).cancelled(self.lease)


@contextmanager
def serving(settings: ApiSettings, ring: Callable[[str], None] | None = None, **options: Any) -> Iterator[ApiServer]:
    """Run the application under uvicorn in a thread until the block ends."""
    database = Database(settings.database_url)
    admin_key = ensure_admin_key(database, settings.data_dir)
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(
        f"http://127.0.0.1:{listener.getsockname()[1]}",
        settings,
        database,
        open_object_store(settings.object_store_url),
        admin_key,
    )
    app = create_app(settings, ring=ring or server.rings.append, **options)
    configuration = uvicorn.Config(app, http=Connection, log_level="critical", ws="none", timeout_graceful_shutdown=5)
    running = Server(configuration)

    def stop() -> None:
        running.should_exit = True

    server.stop = stop
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield server
    finally:
        stop()
        thread.join(timeout=20)
        listener.close()
        database.dispose()
