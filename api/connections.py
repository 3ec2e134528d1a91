"""Connections of the HTTP server, so that nobody takes its descriptors or its memory without asking for anything.

Uvicorn bounds none of what a connection holds before there is a request, nor how long an answer waits for its reader.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
"""How long a request's first line and headers may take, from the connection's begin or from the answer before."""
HEAD_BYTES = 65_536
"""Of them, and of what comes beside a body, such as trailers; what comes at once is one read more."""
UNREAD_SECONDS, LEAST_READ = 60.0, 16_384
"""How long an answer may wait for its reader to take so many bytes of it, or the rest."""
LINGER_SECONDS = 2.0
"""How long what still comes is thrown away after a refusal, since to close at once would take it from its reader."""
TOO_LONG = b"The request's first line and headers have more than 65,536 bytes. Send data as the body."


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, with bounds on the time and the bytes of a request's head, and on an answer's waiting."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._beside_body, self._refused, self._lost = 0, False, False
        self._unread_due: asyncio.TimerHandle | None = None
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Have a part of one request, or of several."""
        if self._refused:
            return
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """Have a request."""
        self._head_due.cancel()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Have a part of a body, whose size the application bounds."""
        self._beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Have all of a request."""
        self._beside_body = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it came while the last one was answered."""
        if not self.pipeline:
            self._await_head()
        if self.transport.is_closing():
            self._await_reader()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which no request came, even if the last answer is not read."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def pause_writing(self) -> None:
        """Hold more of an answer than the reader takes."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Have a reader who took some of it."""
        super().resume_writing()
        if self._unread_due is not None and not self.transport.is_closing():
            self._unread_due.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Be closed."""
        self._lost = True
        self._head_due.cancel()
        self._unset_keepalive_if_required()
        if self._unread_due is not None:
            self._unread_due.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _await_reader(self) -> None:
        if self._lost:
            return
        if self._unread_due is not None:
            self._unread_due.cancel()
        self._unread = self._count_unread()
        self._unread_due = self.loop.call_later(UNREAD_SECONDS, self._judge_reader)

    def _judge_reader(self) -> None:
        if self._unread - self._count_unread() >= LEAST_READ:
            self._await_reader()
        else:
            self.transport.abort()

    def _count_unread(self) -> int:
        """Bytes that the other machine has not confirmed: a full socket takes more in large pieces only."""
        queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _refuse_head(self) -> None:
        self._refused = True
        if self._unread_due is not None:
            self._unread_due.cancel()
        if self.cycle is not None and not self.cycle.response_complete:  # what is said would be in the middle of it
            self.transport.abort()
            return
        head = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(TOO_LONG)}\r\nconnection: close\r\n"
        self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + head.encode() + b"\r\n" + TOO_LONG)
        self.transport.write_eof()
        self._unread_due = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
