"""What surrounds every request: an id, the time it took, bounds on its body, and the last word on defects."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.errors import error_response, internal_error
from api.instruments import measure_request
from sgg_store.logs import get_logger

_log = get_logger(__name__)

DISCARDED_BYTES, DISCARD_SECONDS = 16 * 2**20, 10.0
LOGGED_CHARACTERS = 500  # of a path
STALLED_REMEDY = "Send it again, over a better connection, or send less: upload examples as a file."


class RequestFrame:
    """Gives each request an id, a line in the log, and an answer if it meets a defect.

    Sends `x-request-id` and `openai-processing-ms` with every answer, and what the rate limits have to tell.

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
        trace.get_current_span().set_attribute("sgg.request_id", request_id)  # of the span that FastAPI makes
        with bound_contextvars(request_id=request_id):
            await self._handle(request_id, scope, receive, send)

    async def _handle(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["request_id"] = request_id
        path = scope["path"][:LOGGED_CHARACTERS]
        began = time.perf_counter()
        status, answered_after = 0, 0.0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, answered_after
            if message["type"] == "http.response.start":
                status, answered_after = message["status"], time.perf_counter() - began
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round(answered_after * 1000))
                headers.update(scope["state"].get("headers", {}))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            _log.exception("a request met a defect", method=scope["method"], path=path)
            if status:
                raise
            await internal_error(request_id)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            measure_request(scope, status, answered_after or seconds)
            write = _log.debug if path.startswith("/health/") else _log.info
            write("request", method=scope["method"], path=path, status=status, seconds=round(seconds, 4))


@dataclass(frozen=True, slots=True)
class BodyBound:
    """The largest body that a path takes, in bytes, and what a caller is told who sends more.

    All of it has to come within `seconds`, or as late as its reader wants: then None.
    """

    bytes: int
    message: str
    seconds: float | None = None


class BodyLimit:
    """Refuses request bodies that are too large: at once if their length is announced, else when they exceed it.

    Bodies that take too long to come are given up, so that nobody holds connections for the price of a few bytes.
    """

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
        received, whole, answering = 0, False, False
        end = math.inf if bound.seconds is None else anyio.current_time() + bound.seconds

        async def send_and_note(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        async def receive_within_limit() -> Message:
            nonlocal received, whole
            # with the body whole, or an answer begun, what is waited for is the caller's leaving, however late
            left = None if whole or answering else end - anyio.current_time()
            try:
                with anyio.fail_after(left):
                    part = await receive()
            except TimeoutError as error:
                if not answering:  # meanwhile
                    message = f"The request's body did not arrive within {bound.seconds:g} seconds. {STALLED_REMEDY}"
                    raise HTTPException(408, message, headers={"connection": "close"}) from error
                part = await receive()
            received, whole = received + len(part.get("body", b"")), not part.get("more_body", False)
            if received > bound.bytes and answering:
                return {"type": "http.disconnect"}
            if received > bound.bytes:
                with anyio.move_on_after(DISCARD_SECONDS):
                    await _discard(receive, part)
                raise HTTPException(413, bound.message, headers={"connection": "close"})
            return part

        await self.app(scope, receive_within_limit, send_and_note)


async def _discard(receive: Receive, part: Message) -> None:
    """Take a little more of a body that is too large: who sends little more than it may then hears the answer.

    The connection is closed after that, so that a body without end does not keep the server reading, nor waiting.
    """
    left = DISCARDED_BYTES
    while left > 0 and part.get("more_body", False):
        part = await receive()
        left -= len(part.get("body", b""))
