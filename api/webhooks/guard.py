"""POSTs to addresses that callers chose, without letting them reach what only this machine can reach.

The address is looked up once, checked, and then connected to as it was checked, so that a name cannot mean something
else a moment later. Redirects are not followed, what comes back is not read, and everything ends by one deadline.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore

MAX_URL_CHARS = 2000
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(  # though some versions of Python call addresses in them global
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocols between neighbours
        "192.88.99.0/24",  # relays of 6to4
        "3fff::/20",  # documentation
        "fec0::/10",  # the private networks of old
    )
)


class ForbiddenAddressError(OSError):
    """A name that leads to an address which webhooks may not reach."""


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Where webhooks may go. Without `private`: over https to public addresses only."""

    private: bool

    def problem_of(self, url: str) -> str | None:
        """Say what is wrong with an endpoint's URL, as far as it can be told without looking its name up."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return "It is not a URL. Send one such as https://example.com/hooks."
        schemes = ("https", "http") if self.private else ("https",)
        if parts.scheme not in schemes or not host or port == 0 or not url.isascii() or not url.isprintable():
            return f"It must be an absolute {' or '.join(schemes)} URL such as https://example.com/hooks."
        if parts.username is not None or parts.password is not None or parts.fragment:
            return "It contains a user, password or fragment. Leave them out."
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        return (
            None
            if self.allows(address)
            else f"{host} is not a public address. Use a public one, or ask the administrator to allow private ones."
        )

    def allows(self, address: IpAddress) -> bool:
        """Whether this address may be connected to. Link-local ones (clouds' metadata) never are."""
        found = _embedded(address)
        if found.is_loopback:  # of which ::1 is called reserved, too
            return self.private
        if found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved:
            return False
        return self.private or (found.is_global and not any(found in network for network in _NOT_PUBLIC))


def post(url: str, body: bytes, headers: Mapping[str, str], rule: AddressRule, seconds: float) -> int:
    """Send a body and give the status of the answer.

    Raises ForbiddenAddressError if the rule, perhaps a stricter one than when the URL was given, does not let it;
    OSError or httpcore's errors (see ERRORS) if there is no answer within `seconds`.
    """
    if problem := rule.problem_of(url):
        raise ForbiddenAddressError(problem)
    deadline = time.monotonic() + seconds
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
    with httpcore.ConnectionPool(network_backend=_GuardedBackend(rule, deadline), max_connections=1) as pool:
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        with pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": timeout}) as response:
            return response.status


ERRORS = (OSError, UnicodeError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to allowed addresses only, and lends streams that end at the deadline."""

    def __init__(self, rule: AddressRule, deadline: float) -> None:
        self._rule = rule
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _looked_up(host, port, _left(self._deadline))
        if not all(self._rule.allows(address) for address in addresses):
            raise ForbiddenAddressError("the host name leads to an address that webhooks may not reach")
        refusal: Exception = ForbiddenAddressError("the host name does not lead to any address")
        for address in addresses:
            try:
                stream = self._network.connect_tcp(str(address), port, _left(self._deadline))
                return _DeadlineStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refusal = error
        raise refusal


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which no single wait lasts beyond the deadline, however slowly bytes drip."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _looked_up(host: str, port: int, seconds: float) -> list[IpAddress]:
    """The addresses of a name. Raises TimeoutError if they are not known within `seconds`.

    The resolver knows no deadline: it is asked in a thread that nobody waits for, not even the end of the process.
    """
    found: Future[list[IpAddress]] = Future()

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result([ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries])
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=ask, name="webhook-name", daemon=True).start()
    return found.result(seconds)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time is over")
    return left


def _embedded(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
    return address
