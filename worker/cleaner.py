"""Removes garbage and what has outlived its time, at a slow beat. Any number may run; one at a time does it."""

from __future__ import annotations

from sgg_store.cleaning import Cleaner
from sgg_store.periodic import Periodic


def make_cleaner(cleaner: Cleaner, seconds: float) -> Periodic:
    """The thread that asks every `seconds` whether it is time to clean, and stops between two objects."""

    def clean() -> None:
        cleaner.run_if_due(lambda: not periodic.stopping)

    periodic = Periodic("cleaner", seconds, clean)
    return periodic
