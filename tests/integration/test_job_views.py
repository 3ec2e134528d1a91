"""What callers are told of a job, and what it costs: a fixed number of statements, and looks into indexes only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError
from sgg_store.job_state import JobStatus
from sgg_store.job_views import JobView, JobViews
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import JobResult, Leases
from sgg_store.metrics import Metrics
from sgg_store.records import JobRecord
from sgg_store.retries import Cause
from sgg_store.testing import add_file, add_history, add_job, statements


def view(database: Database, job_id: str) -> JobView:
    with database.read() as session:
        return JobViews(session).get(DEFAULT_PROJECT_ID, job_id)


def page(database: Database, limit: int = 100) -> list[JobView]:
    with database.read() as session:
        return JobViews(session).of(Jobs(session).list_page(DEFAULT_PROJECT_ID, limit=limit).items)


def test_a_view_holds_what_the_tables_know(database: Database) -> None:
    step = StepMetrics(
        **{"step": 2, "total_steps": 9, "epoch": 0.1, "train_loss": 1.0, "train_accuracy": 0.5},
        **{"learning_rate": 1e-4, "gradient_norm": 0.5, "seconds": 2.0, "tokens": 10},
    )
    evaluation = EvaluationMetrics(step=2, valid_loss=0.5, valid_accuracy=0.75, examples=4)
    with database.begin() as session:
        file = add_file(session, facts={"kind": "chat"})
        job = add_job(session, training_file_id=file.id, user_metadata={"a": "1", "b": "ü"})
        claim = Leases(session).claim(job.id, "w")
        assert claim is not None
        older = step.model_copy(update={"step": 1})
        Metrics(session).append(claim.lease, [older, step, evaluation.model_copy(update={"step": 1}), evaluation])
        for number in (1, 2):
            checkpoint = Checkpoints(session).append(claim.lease, number, "prefix", {}, {})
        results = [add_file(session, purpose="fine-tune-results").id for _ in range(2)]
        told = JobResult(fine_tuned_model="m", trained_tokens=1, result_file_ids=(*results, "file-deleted"))
        Leases(session).succeed(claim.lease, told)
    found = view(database, job.id)
    assert (found.job.status, found.kind, found.user_metadata) == (JobStatus.SUCCEEDED, "chat", {"a": "1", "b": "ü"})
    assert (found.step, found.evaluation, found.checkpoint) == (step, evaluation, (checkpoint.id, 2))
    assert [file.id for file in found.results] == results
    assert (found.place, found.cause) == (None, None)
    (listed,) = page(database)
    for name in ("user_metadata", "kind", "step", "evaluation", "checkpoint", "place", "cause"):
        assert getattr(listed, name) == getattr(found, name)
    assert [file.id for file in listed.results] == results


def test_a_view_of_a_bare_job_holds_nothing_more(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session)
    found = view(database, job.id)
    assert (found.user_metadata, found.kind, found.step, found.evaluation, found.checkpoint) == (
        {},
        None,
        None,
        None,
        None,
    )
    assert (found.place, found.cause, found.results) == (1, None, ())


def test_a_failed_job_tells_its_cause_and_a_foreign_one_nothing(database: Database) -> None:
    with database.begin() as session:
        claim = Leases(session).claim(add_job(session).id, "w")
        assert claim is not None
        Leases(session).fail(claim.lease, "x", "It failed.", Cause.USER)
    assert view(database, claim.lease.job_id).cause is Cause.USER
    with pytest.raises(RecordNotFoundError), database.read() as session:
        JobViews(session).get("proj-other", claim.lease.job_id)


def test_places_follow_priority_then_age_within_a_project(database: Database) -> None:
    with database.begin() as session:
        low = sorted((add_job(session) for _ in range(2)), key=lambda job: (job.created_at, job.id))
        high = add_job(session, priority=5)
        add_job(session, "proj-other", priority=9)
    expected = {high.id: 1, low[0].id: 2, low[1].id: 3}
    assert {job_id: view(database, job_id).place for job_id in expected} == expected
    assert {each.job.id: each.place for each in page(database)} == expected
    with database.begin() as session:
        assert Leases(session).claim(high.id, "w")
    expected = {high.id: None, low[0].id: 1, low[1].id: 2}
    assert {job_id: view(database, job_id).place for job_id in expected} == expected
    assert {each.job.id: each.place for each in page(database)} == expected


def add_many(database: Database) -> str:
    """Enough rows that a planner which could look into an index does; gives the id of one job."""
    with database.begin() as session:
        queued = add_history(session, DEFAULT_PROJECT_ID, JobStatus.QUEUED, jobs=1000, points=0)
        add_history(session, DEFAULT_PROJECT_ID, JobStatus.SUCCEEDED, jobs=400, points=10)
        add_history(session, "proj-other", JobStatus.FAILED, jobs=600, points=0)
        for _ in range(500):
            add_file(session)
        session.execute(text("ANALYZE"))
    return queued[500]


def plan(database: Database, statement: str, parameters: Any) -> list[str]:
    """The steps of a query's plan that read rows."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            return [str(row[3]) for row in rows]
        connection.exec_driver_sql("SET enable_seqscan = off")  # else small tables are read whole
        (answer,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).one()
    return list(_nodes(answer if isinstance(answer, list) else json.loads(answer)))


def _nodes(tree: Any) -> Iterator[str]:
    for branch in tree if isinstance(tree, list) else [tree]:
        node = branch.get("Plan", branch)
        if "Scan" in node["Node Type"]:
            yield f"{node['Node Type']} {node.get('Relation Name', '')}"
        yield from _nodes(node.get("Plans", []))


def test_polling_a_job_is_one_statement_that_looks_into_indexes_only(database: Database) -> None:
    job_id = add_many(database)
    with statements() as sent:
        assert view(database, job_id).place == 501
    ((statement, parameters),) = sent
    steps = plan(database, statement, parameters)
    assert len(steps) >= 8
    assert [step for step in steps if step.startswith(("SCAN", "Seq Scan"))] == []


@pytest.mark.parametrize("limit", [1, 100])
def test_a_page_of_jobs_costs_the_same_number_of_statements_however_long_it_is(database: Database, limit: int) -> None:
    add_many(database)
    with statements() as sent:
        views = page(database, limit)
    assert [each.job.id for each in views] == [each.job.id for each in page(database, 100)][:limit]
    assert len(sent) == 3  # jobs, their metadata, the views


def test_a_page_is_found_through_an_index(database: Database) -> None:
    add_many(database)
    with statements() as sent:
        page(database, 20)
    for step in plan(database, *sent[0]):
        assert not step.startswith(("SCAN", "Seq Scan")), step
    assert JobRecord.__tablename__ in sent[0][0]
