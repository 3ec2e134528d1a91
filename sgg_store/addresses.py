"""Addresses of other servers as settings take them. What is wrong is said without the address: passwords are in it."""

from __future__ import annotations

_POSTGRES = "postgresql+psycopg"
_IN_MEMORY = (None, "", ":memory:")  # of SQLite; each connection would have its own
_WRITE_DATABASE = f"Write it as {_POSTGRES}://user:password@host/db or sqlite:////path/to/file"


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
