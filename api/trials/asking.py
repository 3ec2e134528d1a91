"""Asking the workers one question that has one answer."""

from __future__ import annotations

from fastapi import Request

from api.dependencies import Services
from sgg_core.trials import TrialAnswer
from sgg_store.trials import NewTrial

CALLER_GONE = 499  # nobody reads it but our own log


async def ask_for_one(services: Services, request: Request, new: NewTrial) -> TrialAnswer | None:
    """Give the complete answer; None if the caller has gone. Raises what TrialDesk.answers raises."""
    last = None
    async for answer in services.trials.answers(new, request.is_disconnected):
        last = answer
    return last
