"""A real `sgg serve` in a process of its own, with a tiny base model in its catalogue, and the command beside it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from api.settings import ApiSettings
from api.testing import serving
from tests.e2e.browsing import PHONE, chromium, opened, sign_in
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
SGG = (sys.executable, "-m", "cli.main")
PATIENCE = 60.0


class Service:
    """One data directory, the server on it (when it is up), and commands run against it."""

    def __init__(self, home):
        self.data_dir = home / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = home / "serve.log"
        self.process = None
        # one for all: to make a client costs more than a request
        self.http = httpx.Client(trust_env=False, timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0))
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("SGG_") or name == "SGG_CACHE_DIR"
        }
        self.environment = inherited | {
            "SGG_DATA_DIR": str(self.data_dir),
            "SGG_BASE_URL": self.url,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self):
        """Start the server, wait for its first answer, and return its announcement."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*SGG, "serve", "--port", str(self.port), "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                text=True,
            )
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < PATIENCE, self.log.read_text()
            time.sleep(0.02)
        return json.loads(self.process.stdout.readline())

    def kill(self):
        """End the server as a power cut would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """End the server with SIGTERM; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code

    def sgg(self, *arguments, **environment):
        """Run one command to its end."""
        return subprocess.run(
            [*SGG, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.environment | environment,
            timeout=PATIENCE,
            check=False,
        )

    def sgg_json(self, *arguments):
        """Run a command that must succeed and return what it printed as JSON."""
        result = self.sgg(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    @contextmanager
    def sgg_background(self, *arguments):
        """Run a command whose output can be read while it runs; it is killed at the end of the block."""
        with subprocess.Popen(
            [*SGG, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | {"PYTHONUNBUFFERED": "1"},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def add_base_model(self, directory):
        """Let jobs name the tiny base model `tiny`."""
        added = self.sgg(
            "models", "add", "tiny", "--kind", "causal", "--directory", directory, "--context-tokens", 1024
        )
        assert added.returncode == 0, added.stderr

    def submit(self, training, *settings):
        """Submit a job on the tiny base model and return its id."""
        options = [part for setting in settings for part in ("--set", setting)]
        return self.sgg_json("jobs", "submit", "--model", "tiny", "--train", training, *options)["id"]

    def ask(self, verb, path, **options):
        """What the API answers; a command would take its start from the processor that jobs need."""
        key = (self.data_dir / "admin-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        return self.http.request(verb, f"{self.url}{path}", headers=headers, **options).raise_for_status().json()

    def job(self, job_id):
        """A job as the API tells it."""
        return self.ask("GET", f"/fine_tuning/jobs/{job_id}")

    def cancel_jobs(self):
        """Cancel all that run, wait or are paused."""
        for status in ("queued", "running", "paused"):
            for job in self.ask("GET", "/fine_tuning/jobs", params={"status": status, "limit": 100})["data"]:
                with suppress(httpx.HTTPStatusError):  # it has just ended
                    self.ask("POST", f"/fine_tuning/jobs/{job['id']}/cancel")

    def wait_for_step(self, job_id, step):
        """Wait until a job has taken so many steps."""
        deadline = time.monotonic() + 2 * PATIENCE  # the server's worker may have to start
        while (job := self.job(job_id))["sgg"]["step"] < step:
            assert time.monotonic() < deadline, job
            assert job["status"] in ("queued", "running"), job
            time.sleep(0.05)

    def wait_for_success(self, job_id):
        """Wait until a job has succeeded."""
        deadline = time.monotonic() + 2 * PATIENCE
        while (job := self.job(job_id))["status"] != "succeeded":
            assert time.monotonic() < deadline, job
            assert job["status"] in ("queued", "running"), job
            time.sleep(0.05)

    def _answers(self):
        try:
            return self.http.get(f"http://127.0.0.1:{self.port}/health/live").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def served(home, tiny_directory):
    """A running server with the tiny base model."""
    running = Service(home)
    running.add_base_model(tiny_directory)
    running.announcement = running.start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory, tiny_directory):
    with served(tmp_path_factory.mktemp("service"), tiny_directory) as running:
        yield running


@pytest.fixture(scope="module")
def service(shared_service):
    """A running server, which other modules' tests have used, and will: nothing of this one's stays under way."""
    yield shared_service
    shared_service.cancel_jobs()


@pytest.fixture
def own_service(tmp_path, tiny_directory):
    """A running server that the test may kill."""
    with served(tmp_path, tiny_directory) as running:
        yield running


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "tickets.jsonl"
    texts = {
        "bill": ("paid twice", "refund me", "wrong sum", "no receipt"),
        "bug": ("it crashes", "blank page", "slow", "error 5"),
    }
    rows = [{"text": text, "label": label} for label, several in texts.items() for text in several]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, service):
    """The dashboard on a desk, signed in as the administrator."""
    with opened(browser) as fresh:
        sign_in(fresh, service)
        yield fresh


@pytest.fixture
def phone(browser, service):
    """The dashboard on a narrow phone, signed in as the administrator."""
    with opened(browser, viewport=PHONE) as fresh:
        sign_in(fresh, service)
        yield fresh


@pytest.fixture
def scripted(migrated_sqlite_file, tmp_path):
    """A server whose worker is the test: `server` plays it, and `url` and `data_dir` are as those of a `Service`."""
    database = tmp_path / "sgg.sqlite3"
    shutil.copyfile(migrated_sqlite_file, database)
    with serving(ApiSettings(data_dir=tmp_path, database_url=f"sqlite:///{database}")) as server:
        yield SimpleNamespace(server=server, url=server.base_url, data_dir=tmp_path)
