"""Texts that a database cannot keep are refused at the edge, by name and alike on every database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, jsonl, labelled, serving

MODEL = "smollm2-135m-instruct"
BROKEN = [pytest.param("nul \x00 here", id="NUL"), pytest.param("half \ud83d of a pair", id="lone surrogate")]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest, api_settings: ApiSettings) -> Iterator[ApiServer]:
    url = request.getfixturevalue(f"{request.param}_url")
    with serving(api_settings.model_copy(update={"database_url": url})) as running:
        yield running


@pytest.mark.parametrize("text", BROKEN)
def test_a_jobs_texts_are_refused_by_name_with_all_else_that_is_wrong(server: ApiServer, text: str) -> None:
    good = {"model": MODEL, "training_file": server.file_id()}
    hyperparameters = {"task": {"description": text}, "lora": {"targets": ["q_proj", text]}}
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        ({"model": text}, ["model"]),
        ({"training_file": text}, ["training_file"]),
        ({"validation_file": text, "seed": -1}, ["validation_file", "seed"]),
        ({"suffix": text}, ["suffix"]),
        ({"metadata": {"team": text}}, ["metadata.team"]),
        ({"metadata": {text: "x"}}, [f"metadata.{text}"]),
        ({text: 1}, [text]),
        (
            {"method": {"type": "sgg", "sgg": {"hyperparameters": hyperparameters, "sources": [text]}}},
            [
                "method.sgg.hyperparameters.task.description",
                "method.sgg.hyperparameters.lora.targets.1",
                "method.sgg.sources.0",
            ],
        ),
    ]
    for body, params in wrong:
        response = server.create_job(**(good | body))
        assert response.status_code == 400, (body, response.text)
        error = response.json()["error"]
        found = {problem["param"]: problem["message"] for problem in error["sgg"]["problems"]}
        assert list(found)[: len(params)] == params
        assert error["code"] == "invalid_value" and "NUL" in found[params[0]] and "Remove" in found[params[0]]
    with server.http() as http:
        assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert server.job(server.job_id(**good, suffix="\U0001f600", metadata={"\ufffd": "\x01"}))["status"] == "queued"


def test_a_files_name_and_its_texts_are_refused(server: ApiServer) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\x00b.jsonl"\r\n\r\n'
    tail = b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
    with server.http() as http:
        form = {"content-type": "multipart/form-data; boundary=b"}
        response = http.post("/v1/files", content=head + labelled() + tail, headers=form)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file" and "NUL" in response.json()["error"]["message"]
    for text in ("nul \x00", "half \ud83d"):
        for row in ({"text": text, "label": "a"}, {"text": "a", "label": text}, {"text": "a", text: "b"}):
            response = server.upload(jsonl(row))
            assert response.status_code == 400, response.text
            assert response.json()["error"]["sgg"]["problems"][0]["line"] == 1
    with server.http() as http:
        assert http.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/files/file%00", "file_id"),
        ("/v1/files/file%00/content", "file_id"),
        ("/v1/files?after=%00", "after"),
        ("/v1/files?purpose=%00", "purpose"),
        ("/v1/fine_tuning/jobs/x%00", "job_id"),
        ("/v1/fine_tuning/jobs/x%00/events", "job_id"),
        ("/v1/fine_tuning/jobs?after=%00", "after"),
        ("/v1/fine_tuning/jobs?metadata[team]=%00", "metadata[team]"),
        ("/v1/fine_tuning/jobs?metadata[a%00]=x", "metadata[a\x00]"),
        ("/v1/models/a%00", "model"),
    ],
)
def test_a_path_or_query_is_refused_by_name(server: ApiServer, path: str, param: str) -> None:
    with server.http() as http:
        response = http.get(path)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize("depth", [50, 400, 900, 5000])
def test_a_deeply_nested_body_is_the_callers_fault(api_server: ApiServer, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a": ', "}")):
        body = '{"metadata": ' + opening * depth + '"\\u0000"' + closing * depth + "}"
        with api_server.http() as http:
            headers = {"content-type": "application/json"}
            response = http.post("/v1/fine_tuning/jobs", content=body, headers=headers)
        assert response.status_code == 400, response.text
