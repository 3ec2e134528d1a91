"""Connections of the HTTP server: one on which no request comes is closed, so that idle ones use up no descriptors."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
"""How long a request's first line and headers may take, from the connection's begin or from the answer before."""


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, with a bound on the time that it waits for a request.

    Uvicorn itself closes only what is silent after an answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def on_headers_complete(self) -> None:
        """Have a request."""
        self._head_due.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it came while the last one was answered."""
        if not self.pipeline:
            self._await_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Be closed."""
        self._head_due.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)
