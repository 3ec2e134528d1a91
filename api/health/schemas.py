"""Answers about health."""

from __future__ import annotations

from typing import Literal

from api.schemas import Out


class LiveOut(Out):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyOut(Out):
    """Whether everything that a request may need is there."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
    """Each part (database, object_store, reaper, worker) and `ok`, or one sentence on what is wrong."""
