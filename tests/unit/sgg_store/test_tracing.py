"""Without an endpoint nothing is set up; what is stored with a job leads back to its request."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from structlog.contextvars import bound_contextvars

from sgg_store import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SET_UP = (
    "import sys; from opentelemetry import trace; from sgg_store import tracing;"
    "tracing.configure('x'); print(type(trace.get_tracer_provider()).__name__, 'opentelemetry.sdk' in sys.modules)"
)


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({}, "ProxyTracerProvider False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "TracerProvider True"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, "TracerProvider True"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
            "ProxyTracerProvider False",
        ),
    ],
)
def test_spans_are_sent_only_if_it_is_said_where_to(variables: dict[str, str], printed: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **variables}
    done = subprocess.run([sys.executable, "-c", SET_UP], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_without_opentelemetrys_sdk_the_log_says_what_to_install() -> None:
    script = "import sys; sys.modules['opentelemetry.sdk.trace'] = None;" + SET_UP
    environment = {"PYTHONPATH": ":".join(sys.path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "pip install '.[otel]'" in done.stderr


def test_a_callers_trace_and_the_request_are_what_a_job_comes_from() -> None:
    assert tracing.origin() == {}
    context = tracing.incoming({"traceparent": PARENT, "tracestate": "vendor=secret"})
    with (
        bound_contextvars(request_id="req_1"),
        tracing.tracer.start_as_current_span("request", context),
    ):
        found = tracing.origin()
    assert found == {"traceparent": PARENT, "request_id": "req_1"}
    again = trace.get_current_span(tracing.incoming(found)).get_span_context()
    assert again.trace_id == 0x0AF7651916CD43DD8448EB211C80319C and again.is_remote


@pytest.mark.parametrize("header", ["", "00-zz-1-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 10_000])
def test_a_broken_header_is_no_trace(header: str) -> None:
    with tracing.tracer.start_as_current_span("request", tracing.incoming({"traceparent": header})):
        assert "traceparent" not in tracing.origin()
