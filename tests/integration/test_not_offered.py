"""What OpenAI's API has and this server has not is refused in words, not by silence."""

from __future__ import annotations

from typing import Any

import pytest

from api.testing import ApiServer


@pytest.mark.parametrize("action", ["run", "validate"])
def test_graders_are_not_offered(api_server: ApiServer, action: str) -> None:
    with api_server.http() as http:
        answer = http.post(f"/v1/fine_tuning/alpha/graders/{action}", json={"grader": {"type": "string_check"}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "not_offered")
    assert "validation file" in error["message"]


@pytest.mark.parametrize(
    "method",
    [
        {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}},
        {"type": "reinforcement", "reinforcement": {"grader": {"type": "string_check"}}},
    ],
)
def test_methods_of_openai_that_nobody_runs_here_name_those_that_are(
    api_server: ApiServer, method: dict[str, Any]
) -> None:
    answer = api_server.create_job(model="smollm2-135m-instruct", training_file=api_server.file_id(), method=method)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_method", "method.type")
    assert "'supervised'" in error["message"] and "'sgg'" in error["message"]
    assert len(error["sgg"]["problems"]) == 1


def test_methods_that_a_read_job_has_not_may_be_sent_along(api_server: ApiServer) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {}}, "dpo": None, "reinforcement": None}
    answer = api_server.create_job(model="smollm2-135m-instruct", training_file=api_server.file_id(), method=method)
    assert answer.status_code == 200 and set(answer.json()["method"]) == {"type", "supervised"}
