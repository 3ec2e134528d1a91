"""Names that the store gives: ids of rows, names of fine-tuned models and of their checkpoints."""

from __future__ import annotations

import re
import secrets


def new_id(prefix: str) -> str:
    """`prefix` and 24 random hexadecimal digits, as in `ftjob-4c9d...`."""
    return prefix + secrets.token_hex(12)


def event_id(job_id: str, seq: int) -> str:
    """Id of a job's event: the job's digits and the event's number, so that ids sort as the events do."""
    return f"ftevent-{job_id.removeprefix('ftjob-')}{seq:08d}"


def fine_tuned_model_name(base_model: str, project_id: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<12 digits>`, without a slash, so that it fits into one path segment."""
    parts = (base_model.rsplit("/", 1)[-1], project_id.removeprefix("proj-"), suffix or "")
    cleaned = (re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in parts)
    return ":".join(("ft", *cleaned, job_id[-12:]))


def checkpoint_model_name(fine_tuned_model: str, step: int) -> str:
    """Name of the model as it was after `step` steps."""
    return f"{fine_tuned_model}:ckpt-step-{step}"
