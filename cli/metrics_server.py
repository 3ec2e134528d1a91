"""Metrics for Prometheus on a port of their own, which exists only if it is asked for."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.errors import CliError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from sgg_store.settings import StoreSettings


SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Prometheus' own variable: the directory in which several processes count together."""


def share_metrics() -> None:
    """Let the processes that this one will start count together with it. Call it before anything counts."""
    directory = tempfile.mkdtemp(prefix="sgg-metrics-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ[SHARED] = directory


@contextmanager
def metrics_served(settings: StoreSettings, *collectors: Collector) -> Iterator[None]:
    """Answer scrapes on SGG_METRICS_PORT within the block, with what `collectors` find; do nothing without a port.

    Scrapes need no key and tell no secrets, but how much the service has to do: hence the loopback address by default.
    Raises CliError if the port cannot be had.
    """
    if settings.metrics_port is None:
        yield
        return
    from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    from sgg_store.logs import get_logger

    registry = REGISTRY
    if SHARED in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus has no types for it
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise CliError(
            f"Cannot serve metrics on {settings.metrics_host} port {settings.metrics_port}: {error.strerror or error}.",
            "Set SGG_METRICS_PORT to a free port and SGG_METRICS_HOST to an address of this machine, or unset it.",
        ) from error
    for collector in collectors:
        registry.register(collector)
    get_logger(__name__).info("metrics are served", host=settings.metrics_host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for collector in collectors:
            registry.unregister(collector)
