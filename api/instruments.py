"""What the HTTP edge measures, in Prometheus's form."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Histogram

VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Counter("sgg_http_requests_total", "Answered requests.", ["method", "route", "status"])
LATENCY = Histogram(
    "sgg_http_request_seconds",
    "Time until an answer begins; how long a stream or download then takes is not in it.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


def measure_request(scope: Mapping[str, Any], status: int, seconds: float) -> None:
    """Count one request under its route's template, since paths hold ids and callers can make up any number of them."""
    method = scope["method"] if scope["method"] in VERBS else "other"
    route = getattr(scope.get("route"), "path", "unknown")
    requests, latency = _series(method, route, status)
    requests.inc()
    latency.observe(seconds)


@functools.cache  # `labels` costs more than what it leads to; methods, routes and statuses are few
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), LATENCY.labels(method, route)
