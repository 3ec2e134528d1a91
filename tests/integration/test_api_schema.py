"""Every route, called in every way that /openapi.json allows and in many that it does not: no defect, nothing unsaid.

Schemathesis makes the requests from the schema: with a key and without, with bodies of right forms and of wrong ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
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

from api.app import create_app
from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.database import upgrade_schema

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


def check(case: schemathesis.Case, server: ApiServer, headers: dict[str, str]) -> int:
    if "/events" in case.path:  # a stream lasts an hour; it has tests of its own
        case.query = {**(case.query or {}), "stream": "false"}
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "accept"}
    response = case.call(base_url=server.url, headers=headers)
    case.validate_response(response, checks=PROMISES, headers=headers)
    return response.status_code


@schema.parametrize()
@few
def test_with_a_key_every_answer_is_one_that_the_schema_knows(case: schemathesis.Case, server: ApiServer) -> None:
    check(case, server, {"Authorization": f"Bearer {server.admin_key}"})


@schema.include(path_regex="^/v1/").parametrize()
@few
def test_without_a_key_nothing_is_given(case: schemathesis.Case, server: ApiServer) -> None:
    assert check(case, server, {"Authorization": "Bearer sgg_0123456789abcdef_wrong"}) >= 400


def test_the_schema_says_of_every_path_that_it_wants_a_key_and_what_else_it_may_answer() -> None:
    for path, operations in SCHEMA["paths"].items():
        for operation in operations.values():
            keys = operation["security"]
            assert [list(one) for one in keys] == ([["key"]] if path.startswith("/v1/") else [])
            assert not keys or {"400", "401", "403", "404", "413", "429", "500", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
    assert "HTTPValidationError" not in SCHEMA["components"]["schemas"]
