"""`sgg worker`: take jobs from a shared database and broker. `sgg serve` has its own worker and needs none of these."""

from __future__ import annotations

from cli.errors import CliError


def worker() -> None:
    """Run a worker against SGG_DATABASE_URL, SGG_BROKER_URL and SGG_OBJECT_STORE_URL; stop it with Ctrl-C."""
    from sgg_store.settings import StoreSettings
    from worker.app import create_worker
    from worker.errors import TrainerNotInstalledError

    settings = StoreSettings()
    if settings.broker_url.startswith("memory:"):
        raise CliError(
            "SGG_BROKER_URL is not set, and without a broker no other process can reach this worker.",
            "Set it to the address of a Redis server; on one machine use `sgg serve`, which has a worker inside.",
        )
    try:
        ready = create_worker(settings)
    except TrainerNotInstalledError as error:
        raise CliError(str(error)) from error
    ready.run()
