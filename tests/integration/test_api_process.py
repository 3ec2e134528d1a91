"""The API as a process of its own: how much memory it takes, also under the largest files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.settings import ApiSettings
from sgg_store.database import Database
from sgg_store.keys import ensure_admin_key

SCRIPT = """
import socket, sys, uvicorn
from api.app import create_app
from api.settings import ApiSettings
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(create_app(ApiSettings()), log_level="error", ws="none")).run(sockets=[listener])
"""
Running = tuple[psutil.Process, httpx.Client]
LIMIT_BYTES = 200 * 2**20


@pytest.fixture
def process(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    monkeypatch.setenv("SGG_DATA_DIR", str(api_settings.data_dir))
    monkeypatch.setenv("SGG_DATABASE_URL", api_settings.database_url)
    database = Database(api_settings.database_url)
    key = ensure_admin_key(database, api_settings.data_dir)
    database.dispose()
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=120) as http:
            for _ in range(200):
                try:
                    http.get("/health/live")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield psutil.Process(child.pid), http
        child.terminate()


def test_the_process_stays_below_200_mb_and_never_loads_torch(process: Running) -> None:
    api, http = process
    text = "x" * 1030
    lines = (json.dumps({"text": f"{index} {text}", "label": "ab"[index % 2]}) + "\n" for index in range(49_000))
    content = "".join(lines).encode()
    assert 49 * 2**20 < len(content) < 50 * 2**20
    for _ in range(2):
        response = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("big.jsonl", content)})
        assert response.status_code == 200, response.text
    body = {"model": "smollm2-135m-instruct", "training_file": response.json()["id"]}
    assert http.post("/v1/fine_tuning/jobs", json=body).status_code == 200
    with http.stream("GET", f"/v1/files/{body['training_file']}/content") as answer:
        assert sum(len(chunk) for chunk in answer.iter_bytes()) == len(content)
    peak = max(
        int(line.split()[1]) for line in Path(f"/proc/{api.pid}/status").read_text().splitlines() if "VmHWM" in line
    )
    assert api.memory_info().rss < LIMIT_BYTES
    assert peak * 1024 < LIMIT_BYTES
    assert not [library.path for library in api.memory_maps() if "torch" in library.path]
