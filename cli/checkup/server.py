"""The server that the command line talks to: does it answer, is it ready, does it know the key?"""

from __future__ import annotations

import os
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
    except ApiError as error:
        yield Finding("key", "problem", error.message, error.remedy or "Use another key.")
    except ServerUnreachableError as error:
        yield Finding("server", "problem" if expected else "note", error.message, error.remedy)
    except CliError as error:
        yield Finding("key", "problem" if expected else "note", error.message, error.remedy)
