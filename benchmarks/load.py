"""Many jobs and many clients: `sgg serve` on Postgres under load. Starts its own server, and one worker for the claims.

    python benchmarks/load.py --out docs/results/load

writes docs/results/load.json and docs/results/load.md. It needs a Postgres and a Redis server (see --help), in which it
makes a schema and uses one database number, and leaves nothing. Clients, server and database share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from load_clients import NAME, Client, Site, Times, in_threads
from sqlalchemy import create_engine, func, make_url, select, text

from sgg_core.catalogue import Catalogue
from sgg_core.tiny import save_tiny_base
from sgg_store.database import Database
from sgg_store.job_state import JobStatus
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.records import AttemptRecord, JobRecord
from sgg_store.testing import add_history


def submit(site: Site, jobs: int, clients: int) -> tuple[dict[str, Any], list[str]]:
    """Submit jobs from several clients as fast as they are accepted, and count what is in the database afterwards."""
    training = Client(site).upload()
    hyperparameters = {"max_steps": 1, "batch_size": 4}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    accepted: list[list[str]] = [[] for _ in range(clients)]
    times = [Times() for _ in range(clients)]

    def work(number: int) -> None:
        client = Client(site)
        for index in range(number, jobs, clients):
            body = {"model": "tiny-causal", "training_file": training, "method": method, "metadata": {"n": str(index)}}
            answer = times[number].measure(client, "POST", "/v1/fine_tuning/jobs", json.dumps(body).encode())
            accepted[number].append(answer["id"])

    before = site.cpu_seconds()
    took = in_threads(clients, work)
    after = site.cpu_seconds()
    job_ids = [job_id for some in accepted for job_id in some]
    with site.database.read() as session:
        kept = session.execute(select(func.count()).where(JobRecord.id.in_(job_ids))).scalar_one()
    all_times = Times(
        [seconds for each in times for seconds in each.seconds], [seconds for each in times for seconds in each.server]
    )
    facts = {"accepted": len(job_ids), "lost": len(job_ids) - kept, "per_second": round(len(job_ids) / took, 1)}
    facts |= cpu_each(before, after, jobs)
    return facts | {"clients": clients} | all_times.figures(), job_ids


def cpu_each(before: dict[str, float], after: dict[str, float], requests: int) -> dict[str, float]:
    """Milliseconds of processor time that each request took of the server, of the database, and of its client."""
    return {f"{who}_cpu_ms": round(1000 * (after[who] - before[who]) / requests, 2) for who in after}


def poll(site: Site, job_ids: list[str], clients: int, seconds: float, pause: float) -> dict[str, Any]:
    """Let clients poll a job each, and every tenth page through the list, with a pause between two requests."""
    times = {"poll a job": Times(), "list a page": Times()}
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        client, job_id, after = Client(site), job_ids[number * len(job_ids) // clients], ""
        time.sleep(pause * number / clients)  # so that they do not all ask in the same moment
        while time.perf_counter() < end:
            if number % 10:
                times["poll a job"].measure(client, "GET", f"/v1/fine_tuning/jobs/{job_id}")
            else:
                path = f"/v1/fine_tuning/jobs?limit=20{after}"
                page = times["list a page"].measure(client, "GET", path)
                after = f"&after={page['data'][-1]['id']}" if page["has_more"] else ""
            time.sleep(pause)

    before = site.cpu_seconds()
    took = in_threads(clients, work)
    after = site.cpu_seconds()
    count = sum(len(each.seconds) for each in times.values())
    facts = {"clients": clients, "pause_s": pause, "per_second": round(count / took, 1)}
    facts |= cpu_each(before, after, count)
    return {name: facts | each.figures() for name, each in times.items()}


def read(site: Site, job_ids: list[str], rounds: int) -> dict[str, Any]:
    """Read the lists, curves and events of many finished jobs, one request after the other."""
    client = Client(site)
    jobs = "/v1/fine_tuning/jobs"
    ids = [job_ids[index * len(job_ids) // rounds] for index in range(rounds)]
    kinds: dict[str, Callable[[str], str]] = {
        "list jobs": lambda job_id: f"{jobs}?limit=20&after={job_id}",
        "list 100 jobs": lambda job_id: f"{jobs}?limit=100&after={job_id}",
        "metrics of a range": lambda job_id: f"{jobs}/{job_id}/metrics?from_step=20&to_step=80&resolution=50",
        "events": lambda job_id: f"{jobs}/{job_id}/events?limit=100",
        "one job": lambda job_id: f"{jobs}/{job_id}",
    }
    figures = {}
    for name, path_of in kinds.items():
        times = Times()
        for job_id in ids:
            times.measure(client, "GET", path_of(job_id))
        figures[name] = times.figures()
    return figures


def streams(site: Site, job_ids: list[str], count: int) -> dict[str, Any]:
    """Watch so many jobs at once: how soon each stream's first event comes, and what the server's processes hold."""
    times, before = Times(), site.memory_mb()
    watching = []
    for job_id in job_ids[:count]:
        client, began = Client(site), time.perf_counter()
        client.begin_stream(f"/v1/fine_tuning/jobs/{job_id}/events")
        times.seconds.append(time.perf_counter() - began)
        watching.append(client)
    time.sleep(5)  # for what they do while they wait
    return times.figures() | {"memory_before_mb": before, "memory_mb": site.memory_mb()}


def claims(site: Site, jobs: int) -> dict[str, Any]:
    """Submit jobs one by one to an idle worker; from the row's creation to the attempt's, on the database's clock."""
    training = Client(site).upload()
    times = Times()
    with worker(site):
        client = Client(site)
        for number in range(jobs + 1):
            body = {"model": "tiny-causal", "training_file": training, "seed": number}
            body["method"] = {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 1}}}
            job_id = client.call("POST", "/v1/fine_tuning/jobs", json.dumps(body).encode())["id"]
            waited = _wait_for_claim(site, client, job_id)
            if number:  # the first one waits for the worker to come up
                times.seconds.append(waited)
    return times.figures()


def _wait_for_claim(site: Site, client: Client, job_id: str) -> float:
    while client.call("GET", f"/v1/fine_tuning/jobs/{job_id}")["finished_at"] is None:
        time.sleep(0.2)
    with site.database.read() as session:
        query = select(AttemptRecord.started_at - JobRecord.created_at).join(
            JobRecord, JobRecord.id == AttemptRecord.job_id
        )
        return float(session.execute(query.where(JobRecord.id == job_id, AttemptRecord.number == 1)).scalar_one())


@contextmanager
def postgres_schema(url: str) -> Iterator[str]:
    """Give the address of a new schema, dropped afterwards."""
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    schema = f"sgg_load_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    try:
        options = {"options": f"-csearch_path={schema}", "application_name": NAME["name"]}
        yield make_url(url).update_query_dict(options).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        admin.dispose()


@contextmanager
def site_on(database_url: str, broker_url: str, directory: Path, processes: int = 1) -> Iterator[Site]:
    """Start a server without a worker."""
    Catalogue.load(directory / "data").add(save_tiny_base(directory / "tiny"))
    settings = {
        "SGG_DATA_DIR": str(directory / "data"),
        "SGG_DATABASE_URL": database_url,
        "SGG_BROKER_URL": broker_url,
        "SGG_MAX_QUEUED_JOBS": "1000000",
        "SGG_LOG_LEVEL": "warning",
        "SGG_WARM_BASE_MODEL": "tiny-causal",
        "OMP_NUM_THREADS": "1",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SGG_")} | settings
    database = Database(database_url)
    database.upgrade_schema()
    command = [sys.executable, "-m", "cli.main", "serve", "--no-worker", "--port", "0", "--json"]
    command += ["--processes", str(processes)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            facts = json.loads(server.stdout.readline())
            key = Path(facts["admin_key_file"]).read_text().strip()
            yield Site(facts["url"], key, database, environment, psutil.Process(server.pid))
        finally:
            server.terminate()
            database.dispose()


@contextmanager
def worker(site: Site) -> Iterator[None]:
    """Start a worker, and wait until it takes jobs."""
    command = [sys.executable, "-m", "cli.main", "worker", "--json"]
    with subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            yield
        finally:
            process.terminate()


def measure(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """Take all figures. The claims come first, while nothing else is queued."""
    figures: dict[str, Any] = {"claim after submit": claims(site, options.claims)}
    with site.database.begin() as session:
        finished = add_history(
            session, DEFAULT_PROJECT_ID, JobStatus.SUCCEEDED, jobs=options.jobs, points=options.points
        )
    with site.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
    figures |= read(site, finished, options.rounds)
    submitted, queued = submit(site, options.queued, options.submitters)
    figures |= {"submit": submitted, "first event of a stream": streams(site, queued, options.streams)}
    return figures | poll(site, queued, options.clients, options.seconds, options.pause)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| what | requests | a second | p50 | p95 | p99 | server's p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in result["figures"].items():
        rate = each.get("per_second", "")
        shares = ("p50_ms", "p95_ms", "p99_ms", "server_p50_ms", "server_p99_ms")
        times = " | ".join(f"{each[share]} ms" if share in each else "" for share in shares)
        lines.append(f"| {name} | {each['count']} | {rate} | {times} |")
    lost = result["figures"]["submit"]["lost"]
    lines += ["", "| processor time of each | server | database | client |", "|---|---|---|---|"]
    for name, label in (("submit", "submit"), ("poll a job", "request of the polling clients")):
        own = (result["figures"][name][f"{who}_cpu_ms"] for who in ("server", "database", "client"))
        lines.append(f"| {label} | {' | '.join(f'{each} ms' for each in own)} |")
    held = result["figures"]["first event of a stream"]
    streams = f"{held['count']} streams at once: {held['memory_mb']} MB in all of the server's processes"
    lines += ["", f"{streams} ({held['memory_before_mb']} before).", ""]
    return "\n".join(lines) + f"Of the jobs that were accepted, {lost} were lost. All share the machine's cores.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    postgres = os.environ.get("SGG_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
    redis = os.environ.get("SGG_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
    parser.add_argument("--database-url", default=postgres)
    parser.add_argument("--broker-url", default=redis)
    parser.add_argument("--jobs", type=int, default=10_000, help="finished jobs in the database")
    parser.add_argument("--points", type=int, default=100, help="metric points, and events, of each")
    parser.add_argument("--queued", type=int, default=1000, help="jobs to submit")
    parser.add_argument("--submitters", type=int, default=8, help="clients that submit at once")
    parser.add_argument("--clients", type=int, default=50, help="clients that poll at once")
    parser.add_argument("--streams", type=int, default=200, help="streams of events at once")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two requests of a client")
    parser.add_argument("--seconds", type=float, default=20, help="how long they poll")
    parser.add_argument("--rounds", type=int, default=300, help="requests of each kind of reading")
    parser.add_argument("--claims", type=int, default=20, help="jobs that are submitted to an idle worker")
    parser.add_argument("--processes", type=int, default=2, help="processes that answer")
    parser.add_argument("--out", type=Path, default=None, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        postgres_schema(options.database_url) as database_url,
        site_on(database_url, options.broker_url, Path(directory), options.processes) as site,
    ):
        figures = measure(site, options)
    given = {name: value for name, value in vars(options).items() if isinstance(value, int | float)}
    machine = {"processor": platform.machine(), "cpu_count": os.cpu_count()}
    result = {"options": given, "machine": machine, "figures": figures}
    if options.out is None:
        print(json.dumps(result, indent=2))
    else:
        options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        options.out.with_suffix(".md").write_text(table(result))
    print(table(result), file=sys.stderr)


if __name__ == "__main__":
    main()
