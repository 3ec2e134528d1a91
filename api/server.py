"""The HTTP server: uvicorn, which does not wait for streams and trials when it is told to stop."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.dependencies import Services


def spare_the_collector() -> None:
    """Let the garbage collector look at nothing that is there now, in a process that is about to serve for good.

    All that was imported makes a full collection take 150 ms, and every request of that moment waits for it.
    """
    gc.collect()
    gc.freeze()


class Server(uvicorn.Server):
    """Ends the streams first: a job may run for hours, and who follows it comes again.

    `on_started` is called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self._on_started = on_started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, and told again go on stopping: that takes seconds, and what is open gets closed."""
        super().handle_exit(sig, frame)
        self.force_exit = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop gracefully."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        services: Services = app.state.services
        services.feed.close()
        services.trials.close()
        await super().shutdown(sockets)
