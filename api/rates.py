"""Rate limits: so many requests of one caller in a while, counted in Redis if that is the broker, else here.

A process takes a hundredth of a limit at once and counts that down by itself, so that few requests ask Redis. What it
has left when the while is over is lost.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from api.errors import RateLimitedError
from sgg_store.logs import get_logger

_log = get_logger(__name__)

PAUSE_SECONDS = 10.0  # how long Redis is left alone after it did not answer
TIMEOUT_SECONDS = 0.5
PORTIONS = 100


def limit_of(text: str) -> RateLimitItem | None:
    """Read a limit as in `100/minute` or `5000 per hour`; `off` is None. Raises ValueError."""
    return None if text.strip().lower() == "off" else parse(text)


def checked_limit(text: str) -> str:
    """Give the text back if it is a limit that admits somebody. Raises ValueError that says how to write one."""
    try:
        limit = limit_of(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a rate limit. Write one such as 100/minute, or off.") from error
    if limit is not None and limit.amount < 1:
        raise ValueError(f"{text!r} would refuse every request. Write one such as 100/minute, or off for no limit.")
    return text


@dataclass(slots=True)
class _Tickets:
    """Requests that were counted already and may be admitted here until `until` (Unix seconds)."""

    left: int
    others: int
    """How many more there are that nobody has taken."""
    until: float


class RateLimiter:
    """Counts requests. While Redis is away, each process counts for itself: nobody is refused for that."""

    MOST = 10_000  # callers that tickets are kept for

    def __init__(self, limit: str, broker_url: str) -> None:
        self.limit = limit_of(limit)
        self._tickets: dict[str, _Tickets] = {}
        self._alone = FixedWindowRateLimiter(MemoryStorage())
        self._together = _shared(broker_url) if self.limit is not None else None
        self._lock = threading.Lock()
        self._away_until = 0.0

    def hit(self, who: str) -> Mapping[str, str]:
        """Count one request of `who`, and give the headers that tell how many are left.

        Raises RateLimitedError, whose headers also tell when to come again.
        """
        if self.limit is None:
            return {}
        tickets = self._used_one(who) or self._take(self.limit, who)
        return _headers(self.limit, tickets.left + tickets.others, tickets.until)

    def at_hand(self, who: str) -> bool:
        """Whether the next request of `who` is counted without asking anybody."""
        tickets = self._tickets.get(who)
        return self.limit is None or (tickets is not None and tickets.left > 0 and time.time() < tickets.until)

    def _used_one(self, who: str) -> _Tickets | None:
        with self._lock:
            tickets = self._tickets.get(who)
            if tickets is None or tickets.left < 1 or time.time() >= tickets.until:
                return None
            tickets.left -= 1
            return tickets

    def _take(self, limit: RateLimitItem, who: str) -> _Tickets:
        """Take new tickets and use one of them. Raises RateLimitedError if there are none."""
        if self._together is not None and time.monotonic() >= self._away_until:
            try:
                return self._kept(who, _taken(self._together, limit, who))
            except StorageError as error:
                with self._lock:
                    self._away_until = time.monotonic() + PAUSE_SECONDS
                _log.warning("the rate limits' store does not answer; this process counts alone", error=str(error))
        return self._kept(who, _taken(self._alone, limit, who))

    def _kept(self, who: str, tickets: _Tickets) -> _Tickets:
        with self._lock:
            earlier = self._tickets.get(who)
            if earlier is not None and earlier.until == tickets.until:  # another thread took some meanwhile
                tickets.left += earlier.left
            if len(self._tickets) >= self.MOST:
                self._tickets.clear()
            self._tickets[who] = tickets
        return tickets


def _taken(limiter: FixedWindowRateLimiter, limit: RateLimitItem, who: str) -> _Tickets:
    """As many tickets as there are, a hundredth of the limit at most, less the one that is used now."""
    free = limiter.get_window_stats(limit, who).remaining
    count = max(1, min(free, limit.amount // PORTIONS))
    admitted = limiter.hit(limit, who, cost=count)
    window = limiter.get_window_stats(limit, who)
    if admitted:
        return _Tickets(count - 1, max(0, window.remaining), window.reset_time)
    headers = _headers(limit, 0, window.reset_time)
    seconds = _seconds_until(window.reset_time)
    raise RateLimitedError(
        f"One API key, or one address that signs in, may send {limit.amount:,} requests {_period(limit)}. "
        f"Send the next one in {seconds} s, or ask the administrator for a higher SGG_RATE_LIMIT.",
        {**headers, "retry-after": str(seconds)},
    )


def _headers(limit: RateLimitItem, remaining: int, reset_time: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(limit.amount),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": _duration(_seconds_until(reset_time)),
    }


def _seconds_until(reset_time: float) -> int:
    return max(1, math.ceil(reset_time - time.time()))


def _period(limit: RateLimitItem) -> str:
    """The limit's window in words: `per minute`, `in 5 minutes`."""
    name = limit.GRANULARITY.name
    return f"per {name}" if limit.multiples == 1 else f"in {limit.multiples} {name}s"


def _shared(broker_url: str) -> FixedWindowRateLimiter | None:
    if not broker_url.startswith(("redis://", "rediss://")):
        return None
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    storage = storage_from_string(broker_url, wrap_exceptions=True, key_prefix="sgg-rate", **timeouts)
    assert isinstance(storage, Storage)
    return FixedWindowRateLimiter(storage)


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
