"""One trace from a caller's span over the request and the job to its attempt, sent to a collector by real processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import Service
from worker.testing import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP; keeps every span, by its name, with the name of the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, object]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[object]:
        return [span for _, span in list(self.spans) if span.name == name]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"]
            for scope in resource.scope_spans:
                self.server.spans += [(service, span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def attributes(span: object) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.shutdown()


@pytest.fixture
def traced(tmp_path, tiny_directory, collector) -> Iterator[Service]:
    service = Service(tmp_path)
    service.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    service.add_base_model(tiny_directory)
    service.start()
    yield service
    service.kill()


def test_an_attempt_is_in_the_trace_of_the_request_that_made_its_job(traced, collector, tickets):
    key = (traced.data_dir / "admin-key").read_text().strip()
    file_id = traced.sgg_json("files", "upload", tickets)[0]["id"]
    body = {"model": "tiny", "training_file": file_id, "method": {"type": "sgg", "sgg": {}}}
    body["method"]["sgg"]["hyperparameters"] = {"max_steps": 2}
    headers = {"Authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = httpx.post(f"{traced.url}/fine_tuning/jobs", json=body, headers=headers, timeout=60)
    job_id = answer.json()["id"]
    [attempt] = eventually(lambda: collector.named("attempt"))
    [request] = eventually(lambda: collector.named("POST /v1/fine_tuning/jobs"))
    [job] = collector.named("job")
    assert {span.trace_id.hex() for span in (request, job, attempt)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert job.parent_span_id == request.span_id
    assert attempt.parent_span_id == job.span_id
    assert attributes(request)["sgg.request_id"] == answer.headers["x-request-id"]
    assert attributes(request)["http.response.status_code"] == 200
    told = attributes(attempt)
    assert (told["sgg.job_id"], told["sgg.attempt"], told["sgg.ending"]) == (job_id, 1, "Success")
    assert {service for service, _ in collector.spans} == {"sgg-server"}
    lines = [line for line in traced.log.read_text().splitlines() if job_id in line and "attempt" in line]
    assert lines
    assert all(
        TRACE in line and answer.headers["x-request-id"] in line for line in lines if "the attempt ended" in line
    )
    assert not [name for _, span in collector.spans if "key" in (name := str(span)) and key in name]
