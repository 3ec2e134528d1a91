"""Addresses of other servers as settings take them. What is wrong is said without the address: passwords are in it."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_POSTGRES = "postgresql+psycopg"
_HOST = re.compile(r"[\w.:-]+", re.ASCII)  # also of an IPv6 address, without its brackets
_DATABASE = re.compile(  # as SQLAlchemy reads it, which clients of a server do without
    r"(?P<scheme>[\w+]+)://([^:/]*(:[^@]*)?@)?((\[[^/?]+\]|[^/:?]+)?(:(?P<port>[^/?]*))?)?(/(?P<database>[^?]*))?"
)
_WRITE_DATABASE = f"Write it as {_POSTGRES}://user:password@host/db or sqlite:////path/to/file"
_WRITE_BROKER = "Write it as redis://:password@host:6379/0, or rediss:// for TLS"
_WRITE_ENDPOINT = "Write it as http://host:8333 or https://host"


def checked_database_url(text: str) -> str:
    """Give the address back if it is one of SQLite or Postgres, the latter with the driver that is installed.

    Providers hand out `postgres://` and `postgresql://`. Raises ValueError that says how to write one.
    """
    found = _DATABASE.match(text)
    if found is None or not re.fullmatch("[0-9]+", "0" if found["port"] is None else found["port"]):
        if "," in re.split("[/?]", text.partition("://")[2])[0]:
            raise ValueError(f"Write several hosts as {_POSTGRES}://user:password@/db?host=one:5432&host=two:5432")
        raise ValueError(f"It cannot be read. {_WRITE_DATABASE}, with %2F for a / in the password and %40 for an @")
    scheme, rest = found["scheme"].lower(), text.partition("://")[2]
    if scheme in ("postgres", "postgresql", _POSTGRES):
        return f"{_POSTGRES}://{rest}"
    if scheme not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(f"{scheme}:// is no database that SGG can use. {_WRITE_DATABASE}")
    if not rest.startswith("/") or found["database"] in ("", ":memory:"):  # of which each connection would have its own
        raise ValueError(f"{scheme}:// needs a third slash and the path of a file. {_WRITE_DATABASE}")
    return f"{scheme}://{rest}"


def checked_broker_url(text: str) -> str:
    """Give the address back if it is one of Redis, or of the broker within a process. Raises ValueError."""
    if re.search(r";\w+://", text):
        raise ValueError(f"It names several servers, and one is used. {_WRITE_BROKER}")
    parts = _parts(text, _WRITE_BROKER)
    if parts.scheme == "memory":
        return text
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"Only a Redis server over TCP is used, no socket or Sentinel. {_WRITE_BROKER}")
    number = parts.path.removeprefix("/")
    if number and not number.isdecimal():
        raise ValueError(f"Redis numbers its databases, and what stands behind the host is no number. {_WRITE_BROKER}")
    return text


def checked_endpoint(text: str) -> str:
    """Give the address of an S3 server back if it is one of HTTP. Raises ValueError."""
    parts = _parts(text, _WRITE_ENDPOINT)
    host = _HOST.fullmatch(parts.hostname or "")
    if parts.scheme not in ("http", "https") or host is None or text.split() != [text]:
        raise ValueError(f"It is no address of an HTTP server. {_WRITE_ENDPOINT}")
    return text


def checked_public_endpoint(text: str) -> str:
    """The same, or `none`. Raises ValueError."""
    return text if text == "none" else checked_endpoint(text)


def _parts(text: str, how_to_write: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # which is read only now
    except ValueError:  # whose words may hold the password
        raise ValueError(f"It cannot be read, or its port is none. {how_to_write}") from None
    return parts
