"""Says in the register of workers that this one is there, at a slow beat."""

from __future__ import annotations

import os
import socket
from importlib.metadata import version

from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.logs import get_logger
from sgg_store.periodic import Periodic
from sgg_store.workers import BEAT_SECONDS, Presence, Workers

_log = get_logger(__name__)


class PresenceBeat:
    """Enters the register at its start, and leaves it at its end. No job depends on it: what fails is only logged."""

    def __init__(self, database: Database, owner: str, *, answers_trials: bool) -> None:
        self._database = database
        self._presence = Presence(owner, socket.gethostname(), os.getpid(), version("sgg"), answers_trials)
        self._entered = self._draining = False
        self._periodic = Periodic("presence", BEAT_SECONDS, self._say)

    @property
    def alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._periodic.alive

    def start(self) -> None:
        """Enter the register, and say again and again that the worker is there."""
        self._periodic.start()

    def drain(self) -> None:
        """Say that the worker takes no further job; returns at once."""
        self._draining = True
        self._periodic.hurry()

    def stop(self) -> None:
        """Leave the register."""
        self._periodic.stop()
        try:
            with self._database.begin() as session:
                Workers(session).leave(self._presence.owner)
        except StoreError as error:
            _log.warning("the register of workers was not told of the end", error=str(error))

    def _say(self) -> None:
        with self._database.begin() as session:
            if self._entered:
                Workers(session).beat(self._presence, draining=self._draining)
            else:
                Workers(session).enter(self._presence)
        self._entered = True
