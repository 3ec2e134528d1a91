"""What surrounds every request: an id, the time it took, a bound on its body, and the last word on defects."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response, internal_error

logger = logging.getLogger("sgg.api")


class RequestFrame:
    """Gives each request an id and answers defects. Sends `x-request-id` and `openai-processing-ms` with every answer.

    The id is made here, never taken from the caller, so that it is unique in the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        began = time.perf_counter()
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s %s failed (request id %s)", scope["method"], scope["path"], request_id)
            if started:
                raise
            await internal_error(request_id)(scope, receive, send_with_headers)


@dataclass(frozen=True, slots=True)
class BodyBound:
    """The largest body that a path takes, in bytes, and what a caller is told who sends more."""

    bytes: int
    message: str


class BodyLimit:
    """Refuses request bodies that are too large: at once if their length is announced, else when they exceed it."""

    def __init__(self, app: ASGIApp, bound_of: Callable[[str], BodyBound]) -> None:
        self.app = app
        self.bound_of = bound_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bound = self.bound_of(scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > bound.bytes:
            await error_response(413, bound.message, code="request_too_large")(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > bound.bytes:
                raise HTTPException(413, bound.message)
            return part

        await self.app(scope, receive_within_limit, send)
