"""Traces from a request over its job to its attempts, for OpenTelemetry; nothing leaves unless OTEL_ says where to."""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import get_contextvars

from sgg_store.logs import get_logger

_log = get_logger(__name__)
_propagator = TraceContextTextMapPropagator()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

tracer = trace.get_tracer("sgg")
"""Makes spans; without `configure` they cost next to nothing and go nowhere."""


def configure(process: str) -> None:
    """Send the spans of this process by OTLP over HTTP if one of OpenTelemetry's own variables names an endpoint."""
    if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("no traces are sent: OpenTelemetry is not installed; run `pip install '.[otel]'` from a checkout")
        return
    name = os.environ.get("OTEL_SERVICE_NAME") or f"sgg-{process}"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # which sends what is left when the process ends


def incoming(headers: Mapping[str, str]) -> Context:
    """The trace that a caller's headers (lower case) go on with, if they name one."""
    return _propagator.extract(headers)


def origin() -> dict[str, str]:
    """Where the present work comes from, to be stored with a job: `request_id` and `traceparent`, as far as known."""
    found: dict[str, str] = {}
    _propagator.inject(found)
    found.pop("tracestate", None)
    request_id = get_contextvars().get("request_id")
    return found | ({"request_id": request_id} if request_id else {})
