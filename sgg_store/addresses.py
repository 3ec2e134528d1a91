"""Addresses of other servers as settings take them. What is wrong is said without the address: passwords are in it."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_POSTGRES = "postgresql+psycopg"
_HOST = re.compile(r"[\w.:-]+", re.ASCII)  # also of an IPv6 address, without its brackets
_IN_MEMORY = (None, "", ":memory:")  # of SQLite; each connection would have its own
_WRITE_DATABASE = f"Write it as {_POSTGRES}://user:password@host/db or sqlite:////path/to/file"
_WRITE_BROKER = "Write it as redis://:password@host:6379/0, or rediss:// for TLS"
_WRITE_ENDPOINT = "Write it as http://host:8333 or https://host"


def checked_database_url(text: str) -> str:
    """Give the address back if it is one of SQLite or Postgres, the latter with the driver that is installed.

    Providers hand out `postgres://` and `postgresql://`. Raises ValueError that says how to write one.
    """
    from sqlalchemy import exc, make_url  # slow to load, and no client of a server has this setting

    try:
        parsed = make_url(text)
    except (exc.ArgumentError, ValueError):  # whose words may hold the password
        raise ValueError(
            f"It cannot be read. {_WRITE_DATABASE}, with %2F for a / in the password and %40 for an @"
        ) from None
    if parsed.drivername in ("postgres", "postgresql", _POSTGRES):
        return f"{_POSTGRES}://{text.partition('://')[2]}"
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in _IN_MEMORY:
        return text
    kind = f"{parsed.drivername}://" + (" without a file" if parsed.database in _IN_MEMORY else "")
    raise ValueError(f"{kind} is no database that SGG can use. {_WRITE_DATABASE}")


def checked_broker_url(text: str) -> str:
    """Give the address back if it is one of Redis, or of the broker within a process. Raises ValueError."""
    parts = _parts(text, _WRITE_BROKER)
    if parts.scheme == "memory":
        return text
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"It does not begin with redis://. {_WRITE_BROKER}")
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
