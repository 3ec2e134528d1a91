"""A server that dies between storing a job and answering, and a download that leads elsewhere."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api.settings import ApiSettings
from api.testing import labelled, serving
from sgg_store.database import Database, upgrade_schema
from sgg_store.keys import ensure_admin_key
from sgg_store.local_objects import LocalObjectStore

from .test_clients import CONTENT, MODEL

DIES_ONCE = """
import os, socket, sys
from pathlib import Path
import uvicorn
from api.app import create_app
from api.settings import ApiSettings

def ring(job_id):
    died = Path(sys.argv[2])
    if not died.exists():
        died.touch()
        os._exit(1)

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
uvicorn.Server(uvicorn.Config(create_app(ApiSettings(), ring=ring), log_level="critical")).run(sockets=[listener])
"""


def test_the_clients_own_retry_after_the_servers_death_makes_one_job(tmp_path: Path) -> None:
    settings = ApiSettings(data_dir=tmp_path / "data")
    upgrade_schema(settings.database_url)
    database = Database(settings.database_url)
    key = ensure_admin_key(database, settings.data_dir)
    database.dispose()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", DIES_ONCE, str(port), str(tmp_path / "died")]
    environment = os.environ | {"SGG_DATA_DIR": str(settings.data_dir)}
    servers = [subprocess.Popen(command, env=environment)]

    def start_again() -> None:
        assert servers[0].wait(60) == 1
        servers.append(subprocess.Popen(command, env=environment))

    again = threading.Thread(target=start_again)
    again.start()
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert time.monotonic() < deadline
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=8) as client:
            file = client.files.create(file=("t.jsonl", labelled()), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
            assert (tmp_path / "died").exists() and len(servers) == 2
            assert [each.id for each in client.fine_tuning.jobs.list()] == [job.id]
    finally:
        for server in servers:
            server.kill()
            server.wait()
        again.join()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", trust_env=False).status_code == 200
    except httpx.TransportError:
        time.sleep(0.1)
        return False


class LinkedStore(LocalObjectStore):
    """A local store whose objects can be fetched from another server, as those in S3 can."""

    address = ""

    def link(self, key: str) -> str | None:
        return f"{self.address}/{key}"


@contextmanager
def shelf(directory: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server of files, and the headers of the requests that it got."""
    asked: list[dict[str, str]] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=directory)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def test_a_download_that_leads_elsewhere_arrives_and_takes_no_key_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ApiSettings(data_dir=tmp_path / "data", object_store_url=str(tmp_path / "objects"))
    upgrade_schema(settings.database_url)
    store = LinkedStore(tmp_path / "objects")
    monkeypatch.setattr("api.app.open_probed_object_store", lambda url: store)
    with (
        shelf(tmp_path / "objects") as (LinkedStore.address, asked),
        serving(settings) as server,
        openai.OpenAI(base_url=server.base_url, api_key=server.admin_key) as client,
    ):
        file = client.files.create(file=("t.jsonl", CONTENT), purpose="fine-tune")
        assert client.files.content(file.id).read() == CONTENT
    assert len(asked) == 1 and "authorization" not in asked[0]
