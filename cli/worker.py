"""`sgg worker`: take jobs from a shared database and broker. `sgg serve` has its own worker and needs none of these."""

from __future__ import annotations

import os

from cli.errors import CliError
from cli.metrics_server import metrics_served
from cli.output import JsonFlag, print_json_line, say
from sgg_core.imports import without_collector


def worker(as_json: JsonFlag = False) -> None:
    """Run a worker against SGG_DATABASE_URL, SGG_BROKER_URL and SGG_OBJECT_STORE_URL; stop it with Ctrl-C."""
    with without_collector():
        from cli.settings_problems import require_settings
        from sgg_store import logs, tracing
        from sgg_store.settings import StoreSettings
        from worker.app import create_worker
        from worker.errors import PartsEndedError, TrainerNotInstalledError
        from worker.settings import WorkerSettings

    require_settings(WorkerSettings)
    logs.configure("worker")
    tracing.configure("worker")
    settings = StoreSettings()
    if settings.broker_is_embedded:
        raise CliError(
            "SGG_BROKER_URL is not set, and without a broker no other process can reach this worker.",
            "Set it to the address of a Redis server; on one machine use `sgg serve`, which has a worker inside.",
        )
    try:
        ready = create_worker(settings)
        with metrics_served(settings):
            ready.run(on_started=lambda: _announce(ready.settings.worker_name, as_json))
    except (TrainerNotInstalledError, PartsEndedError) as error:
        raise CliError(str(error)) from error


def _announce(name: str, as_json: bool) -> None:
    if as_json:
        print_json_line({"worker": name, "pid": os.getpid()})
    else:
        say(f"{name} takes jobs  (Ctrl-C stops it; a running job goes on in another worker)", style="bold")
