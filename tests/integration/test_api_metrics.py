"""A job's figures over its steps, thinned out by the database."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

import pytest
from sqlalchemy import event, make_url

from api.settings import ApiSettings
from api.testing import ApiServer, HandWorker, serving
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store.metrics import FIGURES, Metrics, Window

STEPS = 100


def loss(step: int) -> float:
    return math.sin(step) + 2


def step_metrics(step: int, total_steps: int = STEPS) -> StepMetrics:
    return StepMetrics(
        step=step,
        total_steps=total_steps,
        epoch=step / total_steps,
        train_loss=loss(step),
        train_accuracy=0.5,
        learning_rate=1e-4,
        gradient_norm=0.5,
        reference_cosine=0.25 if step > 50 else None,
        seconds=0.1,
        tokens=10,
    )


def report(worker: HandWorker) -> None:
    messages: list[StepMetrics | EvaluationMetrics] = [step_metrics(step) for step in range(1, STEPS + 1)]
    messages += [EvaluationMetrics(step=step, valid_loss=1 / step, examples=4) for step in range(10, STEPS + 1, 10)]
    with worker.server.database.begin() as session:
        Metrics(session).append(worker.lease, messages)


def curves(server: ApiServer, job_id: str, **params: object) -> dict[str, dict[str, list[float]]]:
    with server.http() as http:
        answer = http.get(f"/v1/fine_tuning/jobs/{job_id}/metrics", params=params).json()  # type: ignore[arg-type]
    for series in answer["data"]:
        assert len({len(series[part]) for part in ("steps", "values", "low", "high")}) == 1
    return {series["name"]: series for series in answer["data"]} | {"": answer}


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_figures_are_given_as_they_are_or_averaged(
    api_settings: ApiSettings, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with serving(api_settings.model_copy(update={"database_url": url})) as server:
        job_id = server.job_id()
        report(server.claim(job_id))
        whole = curves(server, job_id)
        assert set(whole) - {""} == set(FIGURES)
        assert whole["train_loss"]["steps"] == list(range(1, STEPS + 1))
        assert whole["train_loss"]["values"] == pytest.approx([loss(step) for step in range(1, STEPS + 1)])
        assert whole["valid_loss"]["steps"] == list(range(10, STEPS + 1, 10))
        assert whole["reference_cosine"]["steps"] == list(range(51, STEPS + 1))
        assert whole["valid_accuracy"]["steps"] == whole["source_cosine"]["steps"] == []

        thin = curves(server, job_id, names="train_loss,valid_loss", resolution=7, from_step=11, to_step=90)
        assert set(thin) - {""} == {"train_loss", "valid_loss"}
        assert (thin[""]["from_step"], thin[""]["to_step"], thin[""]["steps_per_point"]) == (11, 90, 12)
        groups = [range(first, min(first + 12, 91)) for first in range(11, 91, 12)]
        assert len(groups) == 7 and thin["train_loss"]["steps"] == [group[-1] for group in groups]
        for part, summary in (("low", min), ("high", max), ("values", lambda found: sum(found) / len(found))):
            expected = [summary([loss(step) for step in group]) for group in groups]
            assert thin["train_loss"][part] == pytest.approx(expected)


def test_a_job_without_figures_has_empty_curves(api_server: ApiServer) -> None:
    found = curves(api_server, api_server.job_id(), names="train_loss")
    assert found["train_loss"]["steps"] == []


@pytest.mark.parametrize(
    ("params", "param"),
    [({"names": "train_loss,nothing"}, "names"), ({"resolution": 0}, "resolution"), ({"from_step": -1}, "from_step")],
)
def test_what_cannot_be_given_is_refused_by_name(
    api_server: ApiServer, params: dict[str, str | int], param: str
) -> None:
    with api_server.http() as http:
        path = f"/v1/fine_tuning/jobs/{api_server.job_id()}/metrics"
        answer = http.get(path, params=params)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert http.get("/v1/fine_tuning/jobs/ftjob-none/metrics").status_code == 404


def test_curves_read_their_own_jobs_rows_only(api_server: ApiServer) -> None:
    """So that a job's curves take no longer when other jobs have written millions of figures."""
    asked: list[tuple[str, Any]] = []
    job_id = api_server.job_id()
    report(api_server.claim(job_id))
    with api_server.database.read() as session:

        @event.listens_for(session.connection(), "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            asked.append((statement, parameters))

        Metrics(session).curves(job_id, FIGURES, Window())
    assert len(asked) == 3
    with sqlite3.connect(make_url(api_server.settings.database_url).database or "") as connection:
        for statement, parameters in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert any("SEARCH metrics USING" in line and "job_id=?" in line for line in plan), plan
            assert not any(line.startswith("SCAN metrics") for line in plan), plan
