"""What the shell offers while a command is typed: ids and names from the server, or nothing where it cannot be asked.

Completion must not disturb: it takes at most a second, prints nothing, and leaves paths to the shell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Offered = list[tuple[str, str]]  # what is offered, and a few words about it

PATIENCE = 1.0  # seconds
SHOWN = 50


def complete_jobs(incomplete: str) -> Offered:
    """Offer the newest jobs by id, with status and base model."""
    return _asked(incomplete, "/fine_tuning/jobs", lambda job: (job["id"], f"{job['status']}, {job['model']}"))


def complete_files(incomplete: str) -> Offered:
    """Offer the newest files by id, with their names. The shell adds paths."""
    return _asked(incomplete, "/files", lambda file: (file["id"], file["filename"]))


def complete_models(incomplete: str) -> Offered:
    """Offer base models and fine-tuned models by name."""
    return _asked(incomplete, "/models", lambda model: (model["id"], model["owned_by"]))


def _asked(incomplete: str, path: str, described: Callable[[dict[str, Any]], tuple[str, str]]) -> Offered:
    """Ask the server for a page, and offer what begins with what was typed; nothing at all on any failure."""
    from cli.client import Client

    try:
        with Client.from_environment(timeout=PATIENCE) as client:
            page = client.get(path, {} if path == "/models" else {"limit": SHOWN})["data"]
        offered = [described(item) for item in page]
    except Exception:  # whatever it is, a traceback in the middle of typing helps nobody
        return []
    return [(name, about) for name, about in offered if name.startswith(incomplete)]
