"""`sgg serve`: API, dispatcher, reaper, worker and trainer on one machine, with one data directory and no servers."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.data_dir_lock import locked
from cli.errors import CliError
from cli.late_worker import LateWorker
from cli.output import JsonFlag, print_json_line, say

if TYPE_CHECKING:
    from api.settings import ApiSettings
    from sgg_store.database import Database
    from worker.embedded import EmbeddedWorker

USAGE = 2


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.  [default: $SGG_DATA_DIR or ~/.local/share/sgg]")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen on an address that other machines can reach.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start the whole service in this terminal; stop it with Ctrl-C. Jobs that are running resume at the next start."""
    _check_bind(host, allow_remote)
    if data_dir is not None:
        os.environ["SGG_DATA_DIR"] = str(data_dir.expanduser().absolute())

    from sgg_store.settings import StoreSettings

    directory = StoreSettings().data_dir
    with locked(directory), _listen(host, port) as listener:
        url = f"http://{_for_url(host)}:{listener.getsockname()[1]}"
        facts = {"url": f"{url}/v1", "pid": os.getpid(), "data_dir": str(directory)}
        facts["admin_key_file"] = str(directory / "admin-key")
        _run(listener, on_started=lambda: print_json_line(facts) if as_json else _greet(facts))


def _run(listener: socket.socket, on_started: Callable[[], None]) -> None:
    from api.settings import ApiSettings
    from sgg_store.database import Database
    from sgg_store.keys import ensure_admin_key

    stop = _StopSignals()
    settings = ApiSettings()
    database = Database(settings.database_url)
    database.upgrade_schema()
    ensure_admin_key(database, settings.data_dir)
    try:
        _serve_http(settings, database, listener, stop, on_started)
    finally:
        database.dispose()


def _serve_http(
    settings: ApiSettings,
    database: Database,
    listener: socket.socket,
    stop: _StopSignals,
    on_started: Callable[[], None],
) -> None:
    import uvicorn

    from api.app import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            worker.start()
            on_started()

    def give_up() -> None:
        server.should_exit = True

    worker = LateWorker(lambda: _start_worker(settings, database), on_failure=give_up)
    app = create_app(settings, ring=worker.ring, worker_problem=worker.problem)
    configuration = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = Server(configuration)
    try:
        if not stop.received:
            server.run(sockets=[listener])
    finally:
        worker.stop()


def _start_worker(settings: ApiSettings, database: Database) -> EmbeddedWorker:
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


def _check_bind(host: str, allow_remote: bool) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not allow_remote:
        raise CliError(
            f"{host} can be reached by other machines, and API keys would cross the network unencrypted.",
            "Keep 127.0.0.1 and put a reverse proxy with TLS in front, or add --allow-remote on a trusted network.",
            exit_code=USAGE,
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CliError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}.",
            "Stop what uses this port, or choose another one with --port (0 takes a free one).",
        ) from error


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _greet(facts: dict[str, Any]) -> None:
    say(f"SGG answers at {facts['url']}  (Ctrl-C stops it; running jobs resume at the next start)", style="bold")
    say(f"  data       {facts['data_dir']}")
    say(f"  admin key  {facts['admin_key_file']}  (clients: SGG_API_KEY, or the same SGG_DATA_DIR)")
