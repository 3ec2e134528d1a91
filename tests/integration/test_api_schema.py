"""Every route, called in every way that /openapi.json allows and in many that it does not: no defect, nothing unsaid.

Schemathesis makes the requests from the schema: with a key and without, with bodies of right forms and of wrong ones.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import update

from api.app import create_app
from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_core.evidence import Doubt
from sgg_core.figures import Evaluation
from sgg_core.report import EXAMPLES, REPORT, FinalFigures, TrainingReport, Verification
from sgg_core.telemetry import Direction, Stability
from sgg_store.announcements import EVENT_TYPES
from sgg_store.database import upgrade_schema
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.objects import report_key
from sgg_store.records import DeliveryState, WebhookDeliveryRecord
from sgg_store.webhooks import Webhooks
from sgg_store.workers import Presence, Workers

SCHEMA: dict[str, Any] = create_app(ApiSettings(data_dir=Path("/nonexistent"))).openapi()
PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(copy.deepcopy(SCHEMA))
few = settings(
    max_examples=3,  # of each kind of request and route; there are some forty routes
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("schema")
    url = f"sqlite:///{directory / 'sgg.sqlite3'}"
    upgrade_schema(url)
    with serving(ApiSettings(data_dir=directory / "data", database_url=url)) as running:
        yield running


MODEL = "smollm2-135m-instruct"
REPORTED = TrainingReport(
    **{"base_model": MODEL, "method": "sgg", "kind": "classification", "labels": ["good", "bad"]},  # type: ignore[arg-type]
    **{"seed": 7, "examples": 16, "validation_examples": 4, "source_examples": 0, "steps": 4},  # type: ignore[arg-type]
    **{"epochs": 1, "batch_size": 8, "learning_rate": 5e-4, "trained_tokens": 9, "seconds": 1.0},  # type: ignore[arg-type]
    stopped_early=False,
    kept_step=4,
    final=FinalFigures(train_loss=0.1, valid_loss=0.5, valid_accuracy=0.75),
    baseline=None,
    evaluation=Evaluation(loss=0.5, accuracy=0.75, examples=4),
    stability=Stability(log_norm_change_std=0.4, abnormal_share=0.0, clipped_share=0.0, gradient_norm_mean=1.5),
    direction=Direction(batch_size=8, reference_cosine_mean=0.2, path_efficiency=0.4),
    source=None,
    verification=Verification(reloaded=True, probes=8, max_difference=0.0),
)
DOUBT = Doubt(
    line=1,
    label="good",
    suspicion=0.9,
    predicted_label="bad",
    gradient_agreement=-0.1,
    reason="It is unlike the others.",
)


@pytest.fixture(scope="module")
def ids(server: ApiServer) -> dict[str, str]:
    """What there is to ask for, by the names that paths have for it, and things to do something about."""
    found = {"project_id": DEFAULT_PROJECT_ID, "key": server.admin_key}
    with server.database.begin() as session:
        Workers(session).enter(Presence("by-hand", "here", 1, "0"))
        found["endpoint_id"] = Webhooks(session).add(DEFAULT_PROJECT_ID, "https://127.0.0.1/", EVENT_TYPES, None).id
    found["file_id"] = server.file_id()
    found |= {name: server.job_id(training_file=found["file_id"]) for name in ("queued", "resting", "paused", "job_id")}
    worker = server.claim(found["job_id"])
    worker.step(1)
    worker.checkpoint(1)
    for name, model in ((REPORT, REPORTED), (EXAMPLES, DOUBT)):
        server.objects.put(report_key(worker.lease, name), model.model_dump_json().encode())
    found["model"] = worker.succeed({"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"})
    with server.http() as http:

        def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        post(f"/v1/fine_tuning/jobs/{found['paused']}/pause", {})
        told = {"at": 1.0, "seconds": 0.1, "status": 200, "error": None}
        with server.database.begin() as session:
            session.execute(update(WebhookDeliveryRecord).values(state=DeliveryState.DELIVERED, log=[told]))
        keys = f"/v1/organization/projects/{DEFAULT_PROJECT_ID}/api_keys"
        found["key_id"] = post(keys, {"name": "mine", "scopes": ["jobs:read"]})["id"]
        deliveries = http.get(f"/v1/webhook_endpoints/{found['endpoint_id']}/deliveries").json()
        found["delivery_id"] = deliveries["data"][0]["id"]
        checkpoints = http.get(f"/v1/fine_tuning/jobs/{found['job_id']}/checkpoints").json()
        found["checkpoint"] = checkpoints["data"][0]["fine_tuned_model_checkpoint"]
        post(f"/v1/fine_tuning/checkpoints/{found['checkpoint']}/permissions", {"project_ids": [DEFAULT_PROJECT_ID]})
        for name in ("upload_id", "whole", "unwanted"):
            found[name] = post("/v1/uploads", UPLOAD)["id"]
        part = http.post(f"/v1/uploads/{found['whole']}/parts", files={"data": ("part", CONTENT)})
        found["part_id"] = part.json()["id"]
        post("/dashboard/session", {"key": server.admin_key})
        [(found["cookie"], found["session"])] = http.cookies.items()
    return found


CONTENT = labelled()
UPLOAD = {"bytes": len(CONTENT), "filename": "train.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
Request = Callable[[dict[str, str]], dict[str, Any]]
GETS: dict[str, Request] = {path: lambda _: {} for path, operations in SCHEMA["paths"].items() if "get" in operations}
GETS |= {
    "/v1/fine_tuning/compare": lambda ids: {"query": {"jobs": f"{ids['job_id']},{ids['queued']}"}},
    "/dashboard/session": lambda ids: {"cookies": {ids["cookie"]: ids["session"]}},
}
POSTS: dict[str, Request] = {
    "/v1/fine_tuning/jobs": lambda ids: {"body": {"model": MODEL, "training_file": ids["file_id"]}},
    "/v1/fine_tuning/jobs/{job_id}/cancel": lambda ids: {"path_parameters": {"job_id": ids["queued"]}},
    "/v1/fine_tuning/jobs/{job_id}/pause": lambda ids: {"path_parameters": {"job_id": ids["resting"]}},
    "/v1/fine_tuning/jobs/{job_id}/resume": lambda ids: {"path_parameters": {"job_id": ids["paused"]}},
    "/v1/fine_tuning/checkpoints/{checkpoint}/permissions": lambda _: {"body": {"project_ids": [DEFAULT_PROJECT_ID]}},
    "/v1/files": lambda _: {"data": {"purpose": "fine-tune"}, "files": {"file": ("train.jsonl", CONTENT)}},
    "/v1/uploads": lambda _: {"body": UPLOAD},
    "/v1/uploads/{upload_id}/parts": lambda _: {"files": {"data": ("part", CONTENT)}},
    "/v1/uploads/{upload_id}/complete": lambda ids: {
        "path_parameters": {"upload_id": ids["whole"]},
        "body": {"part_ids": [ids["part_id"]]},
    },
    "/v1/uploads/{upload_id}/cancel": lambda ids: {"path_parameters": {"upload_id": ids["unwanted"]}},
    "/v1/webhook_endpoints": lambda _: {"body": {"url": "https://1.1.1.1/", "enabled": False}},
    "/v1/webhook_endpoints/{endpoint_id}": lambda _: {"body": {"description": "mine", "enabled": False}},
    "/v1/webhook_endpoints/{endpoint_id}/rotate_secret": lambda _: {},
    "/v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/resend": lambda _: {},
    "/v1/organization/projects": lambda _: {"body": {"name": "Another"}},
    "/v1/organization/projects/{project_id}": lambda _: {"body": {"sgg": {"quotas": {"queued_jobs": 1000}}}},
    "/v1/organization/projects/{project_id}/api_keys": lambda _: {"body": {"name": "mine", "scopes": ["jobs:read"]}},
    "/dashboard/session": lambda ids: {"body": {"key": ids["key"]}},
}
KEYED = [(path, method) for path, routes in SCHEMA["paths"].items() for method in routes if path.startswith("/v1/")]
NOT_HERE = {
    *("/v1/fine_tuning/preview", "/v1/chat/completions", "/v1/completions", "/v1/classifications"),  # need a worker
    *("/v1/fine_tuning/alpha/graders/run", "/v1/fine_tuning/alpha/graders/validate"),  # always refused
    *("/v1/responses", "/v1/embeddings", "/v1/batches", "/v1/evals"),  # these, too
}


def check(case: schemathesis.Case, server: ApiServer, headers: dict[str, str], **content: Any) -> int:
    if "/events" in case.path:  # a stream lasts an hour; it has tests of its own
        case.query = {**(case.query or {}), "stream": "false"}
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "accept"}
    response = case.call(base_url=server.url, headers=headers, **content)
    case.validate_response(response, checks=PROMISES, headers=headers)
    return response.status_code


@schema.parametrize()
@few
def test_with_a_key_every_answer_is_one_that_the_schema_knows(case: schemathesis.Case, server: ApiServer) -> None:
    check(case, server, {"Authorization": f"Bearer {server.admin_key}"})


@pytest.mark.parametrize("path", GETS)
def test_what_there_is_is_given_as_the_schema_says(path: str, server: ApiServer, ids: dict[str, str]) -> None:
    check_good(path, "GET", GETS[path](ids), server, ids)


@pytest.mark.parametrize("path", POSTS)
def test_what_is_done_is_told_as_the_schema_says(path: str, server: ApiServer, ids: dict[str, str]) -> None:
    check_good(path, "POST", POSTS[path](ids), server, ids)


def test_no_route_goes_without_a_request_that_it_takes() -> None:
    assert {path for path, operations in SCHEMA["paths"].items() if "post" in operations} == {*POSTS, *NOT_HERE}


def check_good(path: str, method: str, request: dict[str, Any], server: ApiServer, ids: dict[str, str]) -> None:
    content = {name: request.pop(name) for name in ("data", "files") if name in request}
    case = schema[path][method].Case(**{"path_parameters": ids, **request})
    assert check(case, server, {"Authorization": f"Bearer {server.admin_key}"}, **content) == 200


@pytest.mark.parametrize(("path", "method"), KEYED)
def test_without_a_key_nothing_is_given(path: str, method: str, server: ApiServer, ids: dict[str, str]) -> None:
    case = schema[path][method.upper()].Case(path_parameters={"permission_id": "none", **ids})
    assert check(case, server, {"Authorization": "Bearer sgg_0123456789abcdef_wrong"}) == 401


def test_every_reference_of_the_schema_leads_to_a_shape() -> None:
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(SCHEMA)))
    assert references <= {f"#/components/schemas/{name}" for name in SCHEMA["components"]["schemas"]}


def test_the_schema_says_of_every_path_that_it_wants_a_key_and_what_else_it_may_answer() -> None:
    for path, operations in SCHEMA["paths"].items():
        for operation in operations.values():
            keys = operation["security"]
            assert [list(one) for one in keys] == ([["key"]] if path.startswith("/v1/") else [])
            assert not keys or {"400", "401", "403", "404", "413", "429", "500", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
    assert "HTTPValidationError" not in SCHEMA["components"]["schemas"]
