"""An embedded server of its own for a measurement: a real process with an empty data directory, gone afterwards."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cli.client import Client
from cli.errors import CliError

ELSEWHERE = ("SGG_DATABASE_URL", "SGG_BROKER_URL", "SGG_OBJECT_STORE_URL", "SGG_METRICS_PORT")  # other servers may use
PATIENCE = 300.0


class FreshServer:
    """A server that was started at `began`, on the clock of `time.time`."""

    def __init__(self, began: float, client: Client, log: Path) -> None:
        self.began = began
        self.client = client
        self._log = log

    def is_ready(self) -> bool:
        """Whether database, objects and worker are up. A server that does not answer in time is not."""
        try:
            return httpx.get(f"{self.client.base_url.removesuffix('/v1')}/health/ready").is_success
        except httpx.TransportError:
            return False

    def logged(self, event: str) -> list[tuple[float, dict[str, Any]]]:
        """When its log says this, in seconds after the start, and with which fields."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        found = [line for line in lines if line.get("event") == event]
        return [(datetime.datetime.fromisoformat(line["timestamp"]).timestamp() - self.began, line) for line in found]


@contextmanager
def fresh_server(settings: Mapping[str, str]) -> Iterator[FreshServer]:
    """Start one with these variables, and give it as soon as it answers. Raises CliError if it never does."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {**settings, "SGG_LOG_FORMAT": "json", "SGG_LOG_LEVEL": "info"}
    with tempfile.TemporaryDirectory(prefix="sgg-bench-") as directory:
        log, data = Path(directory) / "log", Path(directory) / "data"
        command = [sys.executable, "-P", "-m", "cli.main", "serve", "--port", "0", "--json", "--data-dir", str(data)]
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server ends with this process
        began = time.time()
        with (
            log.open("wb") as errors,
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                if not said:
                    last = log.read_text().strip().splitlines()[-1:]
                    raise CliError(f"The server did not start: {''.join(last)}", "Try `sgg serve` by hand.")
                facts = json.loads(said)
                with Client(facts["url"], Path(facts["admin_key_file"]).read_text().strip()) as client:
                    yield FreshServer(began, client, log)
            finally:
                process.terminate()
                signal.signal(signal.SIGTERM, before)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Ask every so many seconds until it holds. Raises CliError after five minutes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise CliError(f"Nothing came for {PATIENCE:g} s.", "Look whether other work keeps this machine busy.")
        time.sleep(seconds)
