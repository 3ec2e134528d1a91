"""`sgg serve`: API, dispatcher, reaper, worker and trainer on one machine, with one data directory and no servers."""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.data_dir_lock import locked
from cli.errors import CliError, WrongUseError
from cli.late_worker import LateWorker
from cli.metrics_server import metrics_served, share_metrics
from cli.output import JsonFlag, print_json_line, say
from cli.server_processes import ServerProcesses
from sgg_core.imports import without_collector

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

    from api.settings import ApiSettings
    from sgg_store.database import Database
    from sgg_store.objects import ObjectStore
    from worker.embedded import EmbeddedWorker

LINK_SECONDS = 600.0
MOST_OPEN_FILES = 65_536


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.  [default: $SGG_DATA_DIR or ~/.local/share/sgg]")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen on an address that other machines can reach.")
    ] = False,
    with_worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Train here, or leave it to `sgg worker` elsewhere.")
    ] = True,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that answer requests; more than one needs --no-worker.")
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Start the whole service in this terminal; stop it with Ctrl-C. Jobs that are running resume at the next start."""
    _check_bind(host, allow_remote)
    _allow_many_connections()
    if data_dir is not None:
        os.environ["SGG_DATA_DIR"] = str(data_dir.expanduser().absolute())
    if processes > 1:
        share_metrics()

    with without_collector():
        from api.settings import ApiSettings
        from cli.settings_problems import require_settings
        from sgg_store import logs, tracing
        from sgg_store.settings import StoreSettings
        from worker.settings import WorkerSettings

    require_settings(ApiSettings, *((WorkerSettings,) if with_worker else ()))
    logs.configure("server")
    tracing.configure("server")
    directory = StoreSettings().data_dir
    with locked(directory), _listen(host, port) as listener:
        url = f"http://{_for_url(host)}:{listener.getsockname()[1]}"
        facts = {"url": f"{url}/v1", "pid": os.getpid(), "data_dir": str(directory)}
        facts["admin_key_file"] = str(directory / "admin-key")

        def announce(database: Database, admin_key: str) -> None:
            fragment = _sign_in(database, admin_key) if _is_loopback(host) else ""  # a log may be read by others
            shown = {**facts, "dashboard": f"{url}/{fragment}"}
            print_json_line(shown) if as_json else _greet(shown)

        _run(listener, with_worker, processes, announce)


def kinds_of_settings() -> tuple[type[BaseSettings], ...]:
    """All that a server and a worker read from the environment."""
    from api.settings import ApiSettings
    from sgg_store.logs import LogSettings
    from sgg_store.settings import S3Settings
    from worker.settings import WorkerSettings

    return ApiSettings, WorkerSettings, S3Settings, LogSettings


def _run(listener: socket.socket, with_worker: bool, processes: int, announce: Callable[[Database, str], None]) -> None:
    with without_collector():
        from api.settings import ApiSettings
        from sgg_store.database import Database
        from sgg_store.keys import ensure_admin_key
        from sgg_store.object_probe import open_probed_object_store
        from sgg_store.queue_metrics import QueueCollector

    stop = _StopSignals()
    settings = ApiSettings()
    if not with_worker and settings.broker_is_embedded:
        raise WrongUseError(
            "Without a worker inside, jobs reach workers through a broker only, and SGG_BROKER_URL is not set.",
            "Set it to the address of a Redis server, or leave --no-worker out.",
        )
    if with_worker and processes > 1:
        raise WrongUseError(
            "The built-in worker needs a server of one process, but --processes asks for several.",
            "Add --no-worker and start `sgg worker` beside it, or leave --processes out.",
        )
    database = Database(settings.database_url)
    try:
        _ready_tables(settings, database, open_probed_object_store(settings.object_store_url))
        admin_key = ensure_admin_key(database, settings.data_dir)

        def on_started() -> None:
            announce(database, admin_key)

        with metrics_served(settings, QueueCollector(database, settings.lease_seconds)):
            if processes > 1:
                ServerProcesses(listener, processes).run(on_started, lambda: stop.received)
            else:
                _serve_http(settings, database, listener, with_worker, stop, on_started)
    finally:
        database.dispose()


def _ready_tables(settings: ApiSettings, database: Database, objects: ObjectStore) -> None:
    """Make the tables of a data directory that has none yet. All other changes are for `sgg db upgrade`."""
    status = database.schema_status()
    if status.state == "empty" and settings.database_is_embedded:
        if any(any(objects.list(folder)) for folder in ("files", "jobs")):
            raise CliError(
                f"There is no database in {settings.data_dir}, but objects that belong to one: it was moved or lost.",
                "Restore sgg.sqlite3 from a backup, or name another --data-dir.",
            )
        database.upgrade_schema()
    else:
        status.require_current()


def _serve_http(
    settings: ApiSettings,
    database: Database,
    listener: socket.socket,
    with_worker: bool,
    stop: _StopSignals,
    on_started: Callable[[], None],
) -> None:
    with without_collector():
        import uvicorn

        from api.app import create_app
        from api.connections import Connection
        from api.server import Server, spare_the_collector

    def announce() -> None:
        if worker is not None:
            worker.start()
        on_started()

    def give_up() -> None:
        server.should_exit = True

    worker = LateWorker(lambda: _start_worker(settings, database), on_failure=give_up) if with_worker else None
    if worker is not None:
        app = create_app(settings, ring=worker.ring, worker_problem=worker.problem)
    else:
        from sgg_store.queue import doorbell  # loads Celery, which an embedded worker does while requests come

        app = create_app(settings, ring=doorbell(settings))
    configuration = uvicorn.Config(app, http=Connection, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = Server(configuration, announce)
    spare_the_collector()
    try:
        if not stop.received:
            server.run(sockets=[listener])
    finally:
        if worker is not None:
            worker.stop()


def _start_worker(settings: ApiSettings, database: Database) -> EmbeddedWorker:
    with without_collector():
        from sgg_store.objects import open_object_store
        from worker.embedded import start_embedded
        from worker.errors import TrainerNotInstalledError

    try:
        return start_embedded(settings, database, open_object_store(settings.object_store_url))
    except TrainerNotInstalledError as error:
        raise CliError(str(error)) from error


class _StopSignals:
    """Catches SIGTERM and SIGINT before and after uvicorn does, so that they never skip the worker's drain."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: Any) -> None:
        self.received = True


def _sign_in(database: Database, admin_key: str) -> str:
    """Make a link that signs the administrator in once; gives its fragment, which browsers send to nobody."""
    from sgg_store.browser_sessions import BrowserSessions

    with database.begin() as session:
        token = BrowserSessions(session).make_link(admin_key.split("_")[1], LINK_SECONDS)
    return f"#sign-in={token}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_bind(host: str, allow_remote: bool) -> None:
    if not _is_loopback(host) and not allow_remote:
        raise WrongUseError(
            f"{host} can be reached by other machines, and API keys would cross the network unencrypted.",
            "Keep 127.0.0.1 and put a reverse proxy with TLS in front, or add --allow-remote on a trusted network.",
        )


def _allow_many_connections() -> None:
    """Raise this process's own limit of open files, a usual 1,024, as far as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS may allow less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        # asyncio does this only for sockets that name their protocol: else each answer waits 40 ms for a delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise CliError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}.",
            "Stop what uses this port, or choose another one with --port (0 takes a free one).",
        ) from error


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _greet(facts: dict[str, Any]) -> None:
    say(f"SGG answers at {facts['url']}  (Ctrl-C stops it; running jobs resume at the next start)", style="bold")
    how = "this link signs in once, within ten minutes" if "#" in facts["dashboard"] else "sign in with an API key"
    say(f"  dashboard  {facts['dashboard']}  ({how})")
    say(f"  data       {facts['data_dir']}")
    say(f"  admin key  {facts['admin_key_file']}  (clients: SGG_API_KEY, or the same SGG_DATA_DIR)")
