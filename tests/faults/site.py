"""A whole deployment in processes of its own, which a test may kill, stop and start: what fault tests act upon."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select, update

from sgg_core.catalogue import BaseModelEntry
from sgg_store.failpoints import Failpoint
from sgg_store.files import Files
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_admin_key
from sgg_store.records import AttemptRecord, JobRecord
from tests.faults.invariants import Endings, check_invariants
from tests.faults.running import ROOT, Running, is_fork_server, is_trainer, lives
from tests.servers import free_port
from worker.testing import TWO_LABELS, Workbench, eventually

SGG = (sys.executable, "-m", "cli.main")
LEASE_SECONDS = 3.0
STEPS, CHECKPOINT_EVERY = 60, 10
FEW_STEPS = 12  # of a job that nothing is done to while it trains
QUICK = {
    "SGG_LEASE_SECONDS": str(LEASE_SECONDS),
    "SGG_FLUSH_SECONDS": "0.1",
    "SGG_DISPATCH_SECONDS": "0.2",
    "SGG_REAP_SECONDS": "0.4",
    "SGG_WARM_BASE_MODEL": "none",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


class Site:
    """A deployment on `embedded` (SQLite, no broker, local objects, one process) or on `servers` (an API, two workers).

    Its jobs are read from the database and submitted over HTTP.
    """

    def __init__(
        self,
        directory: Path,
        tiny: BaseModelEntry,
        servers: Mapping[str, str] | None = None,
        *,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.embedded = servers is None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SGG_")}
        own = {"SGG_DATA_DIR": str(directory / "data"), "SGG_FAILPOINTS": str(directory / "failpoints")}
        # the one variable of ours that a trainer gets to see: it tells whose trainer a process is
        own["SGG_CACHE_DIR"] = str(directory / "cache")
        self.environment = inherited | QUICK | own | dict(servers or {}) | dict(environment or {})
        self.failpoints = directory / "failpoints"
        self.failpoints.mkdir(parents=True)
        names = {"SGG_DATABASE_URL": "database_url", "SGG_OBJECT_STORE_URL": "object_store_url"}
        addresses = {names[name]: value for name, value in (servers or {}).items() if name in names}
        self.bench = Workbench(directory / "data", tiny, **addresses)
        self.key = ensure_admin_key(self.bench.database, directory / "data")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api: Running | None = None
        self.workers: list[Running] = []
        self._worker_count = workers
        self._everything: list[Running] = []
        self._endings: Endings = {}
        self._training_file: str | None = None

    # processes

    def start(self) -> None:
        """Start whatever is not running, all of it at the same time."""
        begun = []
        if self.api is None or not self.api.alive:
            self.api = self._serve()
            begun.append(self.api)
        if self.embedded:
            self.workers = [self.api]
        else:
            self.workers = [worker for worker in self.workers if worker.alive]
            more = [self._worker({}) for _ in range(self._worker_count - len(self.workers))]
            self.workers += more
            begun += more
        for running in begun:
            running.announced()

    def start_workers(self, *environments: Mapping[str, str]) -> list[Running]:
        """Start more workers of a deployment on servers; what each alone is told overrides the site's environment."""
        workers = [self._worker(environment) for environment in environments]
        for worker in workers:
            worker.announced()
        return workers

    def close(self) -> None:
        """End all processes at once."""
        for running in self._everything:
            if running.alive:
                running.thaw()
                running.kill()
            if running.process.stdout is not None:
                running.process.stdout.close()
        self.bench.close()

    def worker_of(self, job_id: str) -> Running:
        """The worker that runs a job now."""
        owner = eventually(lambda: self._running_attempt(job_id)).owner
        if self.embedded:
            return self.workers[0]
        return next(worker for worker in self.workers if f":{worker.process.pid}:" in owner)

    @contextmanager
    def in_use(self) -> Iterator[Site]:
        """Run the deployment for the length of the block. At its end every job ends, and what must hold is checked."""
        self.start()
        try:
            yield self
            self.settle()
        finally:
            for path in self.failpoints.iterdir():  # lets go whom they hold
                path.unlink()
            print(self.log())  # pytest shows it where a test failed

    # jobs

    def http(self, url: str | None = None) -> httpx.Client:
        """A client of the API with the administrator's key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=url or self.url, headers=headers, trust_env=False, timeout=30)

    def upload(self, examples: bytes) -> str:
        """Upload a training file over HTTP; gives its id."""
        with self.http() as http:
            upload = {"file": ("train.jsonl", examples)}
            answer = http.post("/v1/files", data={"purpose": "fine-tune"}, files=upload)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def request(self, steps: int = STEPS, every: int = CHECKPOINT_EVERY, **hyperparameters: Any) -> dict[str, Any]:
        """The body of a request for a job on the tiny base model. Equal bodies make equal adapters."""
        if self._training_file is None:
            self._training_file = self.upload(TWO_LABELS)
        usual = {"n_epochs": 50, "max_steps": steps, "batch_size": 4, "checkpoint": {"every_steps": every}}
        return {
            "model": self.bench.base_model.name,
            "training_file": self._training_file,
            "seed": 7,
            "method": {"type": "sgg", "sgg": {"hyperparameters": usual | hyperparameters}},
        }

    def submit(self, steps: int = STEPS, every: int = CHECKPOINT_EVERY) -> str:
        """Submit a job over HTTP; gives its id."""
        return self.submit_request(self.request(steps, every))

    def submit_request(self, body: dict[str, Any]) -> str:
        """Submit a job with such a request's body; gives its id."""
        with self.http() as http:
            answer = http.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def begin(self, step: int, steps: int = STEPS, every: int = CHECKPOINT_EVERY) -> str:
        """Submit a job and wait until it has done so many steps."""
        job_id = self.submit(steps, every)
        self.bench.wait_for_step(job_id, step)
        return job_id

    def cancel(self, job_id: str) -> int:
        """Cancel a job over HTTP; gives the answer's status code."""
        with self.http() as http:
            return http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code

    def ring_soon(self, job_id: str) -> None:
        """Spare the test the pause before a job's next attempt: its doorbell is due now."""
        with self.bench.database.begin() as session:
            session.execute(update(JobRecord).where(JobRecord.id == job_id).values(next_ring_at=0.0))

    def objects_under(self, prefix: str) -> list[str]:
        """Keys of the stored objects under a folder."""
        return [stored.key for stored in self.bench.objects.list(prefix)]

    def weights(self, job_id: str) -> str:
        """The sha256 of the weights that a succeeded job made."""
        with self.bench.database.read() as session:
            files = [Files(session).get(DEFAULT_PROJECT_ID, each) for each in self.bench.job(job_id).result_file_ids]
        bundle = next(file for file in files if file.filename.endswith(".tar.gz"))
        content = b"".join(self.bench.objects.open(bundle.object_key))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            weights = archive.extractfile("adapter_model.safetensors")
            assert weights is not None
            return hashlib.sha256(weights.read()).hexdigest()

    @cached_property
    def reference(self) -> str:
        """The sha256 of the weights of a job that nothing happened to."""
        self.start()
        job_id = self.submit()
        assert len(self.assert_whole(job_id)) == 1
        return self.weights(job_id)

    # failpoints

    def arm(self, failpoint: Failpoint, action: str) -> None:
        """Let the first process that reaches the failpoint `kill` itself or `hold`."""
        self._fired(failpoint).unlink(missing_ok=True)
        draft = self.failpoints / "draft"
        draft.write_text(action)
        draft.rename(self.failpoints / failpoint)

    def wait_until_fired(self, failpoint: Failpoint) -> None:
        """Wait until a process has reached the armed failpoint."""
        eventually(self._fired(failpoint).exists)

    def release(self, failpoint: Failpoint) -> None:
        """Let the process that is held go on."""
        self._fired(failpoint).unlink()

    # what must hold

    def settle(self) -> None:
        """Wait until every job has ended, then check all that must hold after any fault."""
        self.start()
        eventually(self._all_ended)
        check_invariants(self.bench.database, self.bench.objects, self._endings)
        eventually(self._no_stray_trainer, 20)

    def assert_whole(self, job_id: str, steps: int = STEPS) -> list[AttemptRecord]:
        """The job succeeded once, and its story has neither holes nor doubles. Gives its attempts."""
        job = self.bench.wait_for_end(job_id)
        assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
        assert self.bench.steps(job_id) == list(range(1, steps + 1))
        told = [event.data["step"] for event in self.bench.events(job_id) if event.type == "metrics"]
        assert told == list(range(1, steps + 1))
        attempts = self.bench.attempts(job_id)
        assert attempts[-1].state is AttemptState.SUCCEEDED
        return attempts

    def log(self) -> str:
        """The end of what the processes wrote to stderr."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs)

    def _serve(self) -> Running:
        shape = [] if self.embedded else ["--no-worker"]
        return self._run([*SGG, "serve", "--port", str(self.port), "--json", *shape], "serve.log", {})

    def _worker(self, environment: Mapping[str, str]) -> Running:
        return self._run([*SGG, "worker", "--json"], "worker.log", environment)

    def _run(self, command: Sequence[str], log: str, environment: Mapping[str, str]) -> Running:
        running = Running(command, self.environment | dict(environment), self.directory / log)
        self._everything.append(running)
        return running

    def _running_attempt(self, job_id: str) -> AttemptRecord | None:
        return next((one for one in self.bench.attempts(job_id) if one.state is AttemptState.RUNNING), None)

    def _all_ended(self) -> bool:
        with self.bench.database.read() as session:
            return not session.scalars(select(JobRecord.id).where(JobRecord.status.not_in(TERMINAL)).limit(1)).all()

    def _no_stray_trainer(self) -> bool:
        """Whether each living trainer has a living worker, and none of them is at work: no job has a lease now.

        Between them is a fork server; what a trainer has forked looks like it, and has to have a living trainer.
        """
        processes = [process for process in psutil.process_iter() if self._owns(process) and lives(process)]
        trainers = [process for process in processes if is_trainer(process)]
        workers = [running.process.pid for running in self._everything if running.alive]
        parents = [each.pid for each in processes if is_fork_server(each) and each.ppid() in workers]
        parents += [trainer.pid for trainer in trainers]
        at_work = list((self.directory / "data" / "scratch").glob("worker-*/ftjob-*"))
        held = [path for path in at_work if self._is_held(path.parent)]
        return not held and all(trainer.ppid() in parents for trainer in trainers)

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SGG_CACHE_DIR") == self.environment["SGG_CACHE_DIR"]
        except psutil.Error:
            return False

    @staticmethod
    def _is_held(directory: Path) -> bool:
        lock = directory / "lock"
        return lock.exists() and subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode != 0

    def _fired(self, failpoint: Failpoint) -> Path:
        return self.failpoints / f"{failpoint}.fired"
