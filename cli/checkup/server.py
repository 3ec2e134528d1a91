"""The server that the command line talks to: does it answer, is it ready, does it know the key?"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cli.checkup.finding import Finding
from cli.checkup.store import server_on
from cli.client import Client
from cli.errors import ApiError, CliError, ServerUnreachableError


def check_server(data_dir: Path) -> Iterator[Finding]:
    """Ask the server of SGG_BASE_URL. That none answers is a problem only where one is expected."""
    expected = bool(os.environ.get("SGG_BASE_URL")) or server_on(data_dir) is not None
    try:
        with Client.from_environment() as client:
            told = client.get("../health/ready")
            yield Finding("server", "ok", f"{client.base_url} answers and is ready ({', '.join(told['checks'])}).")
            client.get("/models")
            yield Finding("key", "ok", "The server takes the API key.")
            yield from _workers(client)
    except ApiError as error:
        yield Finding("key", "problem", error.message, error.remedy or "Use another key.")
    except ServerUnreachableError as error:
        yield Finding("server", "problem" if expected else "note", error.message, error.remedy)
    except CliError as error:
        yield Finding("key", "problem" if expected else "note", error.message, error.remedy)


def _workers(client: Client) -> Iterator[Finding]:
    """Who would take a job. Only administrators may know."""
    try:
        found = client.get("/organization/workers")["data"]
    except ApiError as error:
        if error.status != 403:
            raise
        return
    states = Counter(worker["status"] for worker in found)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if states["idle"] + states["busy"]:
        yield Finding("workers", "ok", f"Workers take jobs: {told}.")
    else:
        remedy = "Start one with `sgg worker`; a server that has its own one inside needs some seconds to start it."
        yield Finding("workers", "problem", f"No worker takes jobs{f' ({told})' if told else ''}.", remedy)
