"""Jobs with everything that their callers are told of them: one indexed query for one job, a few for a page of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import JSON, ColumnElement, Select, and_, bindparam, case, func, null, or_, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, aliased, lazyload
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from sgg_core.reporting import EvaluationMetrics, StepMetrics, message_adapter
from sgg_store.errors import RecordNotFoundError
from sgg_store.job_state import JobStatus
from sgg_store.records import (
    AttemptRecord,
    CheckpointRecord,
    FileRecord,
    JobMetadataRecord,
    JobRecord,
    MetricRecord,
    database_now,
)
from sgg_store.retries import Cause


class AttemptView(NamedTuple):
    """What callers are told of an attempt."""

    number: int
    state: str
    cause: str | None
    started_at: float
    ended_at: float | None
    start_step: int
    last_step: int
    lease_expires_at: float

    def seconds(self, now: float) -> float:
        """How long it took so far; one that was lost, until its lease ran out."""
        return min(now if self.ended_at is None else self.ended_at, self.lease_expires_at) - self.started_at


@dataclass(frozen=True, slots=True)
class JobView:
    """A job's row and what other tables know of it."""

    job: JobRecord
    user_metadata: dict[str, str]
    kind: str | None
    """What the training file holds; None if that is deleted."""
    place: int | None
    """Which one it is among its project's queued jobs, counting from 1; None if it is not queued."""
    step: StepMetrics | None
    """The newest figures of a step."""
    evaluation: EvaluationMetrics | None
    """The newest figures of an evaluation."""
    checkpoint: tuple[str, int] | None
    """Id and step of the newest sound checkpoint."""
    cause: Cause | None
    """Why the current attempt ended without a result, if it did."""
    attempts: tuple[AttemptView, ...] = ()
    """First to last; only in the view of one job."""
    now: float = 0.0
    """The database's clock."""
    results: tuple[FileRecord, ...] = ()
    """The result files that are not deleted, in the job's order."""


def new_view(job: JobRecord, user_metadata: dict[str, str], kind: str | None, place: int) -> JobView:
    """The view of a job that was just added, to which nothing has happened yet."""
    return JobView(job, user_metadata, kind, place, None, None, None, None, now=job.created_at)


class JobViews:
    """Reads views of jobs. A job of another project is not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, project_id: str, job_id: str) -> JobView:
        """One job, in one query; in two if it has results. Raises RecordNotFoundError."""
        row = self.session.execute(_one_view(), {"job_id": job_id, "project_id": project_id}).one_or_none()
        if row is None:
            raise RecordNotFoundError("fine-tuning job", job_id)
        return self._with_results([_view_of(*row)])[0]

    def of(self, jobs: Sequence[JobRecord]) -> list[JobView]:
        """The views of these jobs, in their order and in at most two queries."""
        query = _many_views(ranked=any(job.status is JobStatus.QUEUED for job in jobs))
        rows = self.session.execute(query, {"job_ids": [job.id for job in jobs]})
        views = {view.job.id: view for view in (_view_of(*row) for row in rows)}
        return self._with_results([views[job.id] for job in jobs if job.id in views])

    def _with_results(self, views: list[JobView]) -> list[JobView]:
        named = [file_id for view in views for file_id in view.job.result_file_ids]
        if not named:
            return views
        found = {file.id: file for file in self.session.scalars(select(FileRecord).where(FileRecord.id.in_(named)))}
        return [
            replace(view, results=tuple(found[each] for each in view.job.result_file_ids if each in found))
            for view in views
        ]


class _object_of(FunctionElement[Any]):  # noqa: N801 - it reads as the SQL function it is
    """An aggregate: the JSON object of keys and values."""

    type = JSON()
    inherit_cache = True


@compiles(_object_of, "postgresql")
def _postgres_object(element: _object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_object_agg({compiler.process(element.clauses, **options)})"


@compiles(_object_of, "sqlite")
def _sqlite_object(element: _object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_object({compiler.process(element.clauses, **options)})"


class _rows_of(FunctionElement[Any]):  # noqa: N801
    """An aggregate: a JSON list of rows, each the list of its values."""

    type = JSON()
    inherit_cache = True


@compiles(_rows_of, "postgresql")
def _postgres_rows(element: _rows_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_agg(json_build_array({compiler.process(element.clauses, **options)}))"


@compiles(_rows_of, "sqlite")
def _sqlite_rows(element: _rows_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **options)}))"


@functools.cache  # to build a query costs more than to run it
def _one_view() -> Select[Any]:
    attempts = select(_rows_of(*(getattr(AttemptRecord, name) for name in AttemptView._fields))).where(
        AttemptRecord.job_id == JobRecord.id
    )
    view = _view(_jobs_ahead() + 1).add_columns(attempts.correlate(JobRecord).scalar_subquery(), database_now())
    return view.where(JobRecord.id == bindparam("job_id"), JobRecord.project_id == bindparam("project_id"))


@functools.cache
def _many_views(ranked: bool) -> Select[Any]:
    order = (JobRecord.priority.desc(), JobRecord.created_at, JobRecord.id)
    rank = func.row_number().over(partition_by=JobRecord.project_id, order_by=order)
    ranks = select(JobRecord.id, rank.label("rank")).where(JobRecord.status == JobStatus.QUEUED).subquery()
    query = _view(ranks.c.rank).outerjoin(ranks, ranks.c.id == JobRecord.id) if ranked else _view(null())
    return query.where(JobRecord.id.in_(bindparam("job_ids", expanding=True)))


def _view(place: ColumnElement[Any]) -> Select[Any]:
    """The query of views: every column but the job itself is one look into an index."""
    checkpoint = (
        select(CheckpointRecord)
        .where(CheckpointRecord.job_id == JobRecord.id, CheckpointRecord.damaged.is_(False))
        .order_by(CheckpointRecord.step.desc())
        .limit(1)
    )
    columns = (
        select(_object_of(JobMetadataRecord.key, JobMetadataRecord.value)).where(
            JobMetadataRecord.job_id == JobRecord.id
        ),
        select(FileRecord.facts["kind"].as_string()).where(FileRecord.id == JobRecord.training_file_id),
        _newest_figures("step"),
        _newest_figures("evaluation"),
        checkpoint.with_only_columns(CheckpointRecord.id),
        checkpoint.with_only_columns(CheckpointRecord.step),
        select(AttemptRecord.cause).where(
            AttemptRecord.job_id == JobRecord.id, AttemptRecord.number == JobRecord.current_attempt
        ),
    )
    place_if_queued = case((JobRecord.status == JobStatus.QUEUED, place))
    subqueries = (column.correlate(JobRecord).scalar_subquery() for column in columns)
    return select(JobRecord, place_if_queued, *subqueries).options(lazyload(JobRecord.metadata_pairs))


def _newest_figures(type_: str) -> Select[Any]:
    newest = select(MetricRecord.figures).where(MetricRecord.job_id == JobRecord.id, MetricRecord.type == type_)
    return newest.order_by(MetricRecord.step.desc()).limit(1)


def _jobs_ahead() -> ColumnElement[int]:
    other = aliased(JobRecord)
    earlier = tuple_(other.created_at, other.id) < tuple_(JobRecord.created_at, JobRecord.id)
    ahead = or_(other.priority > JobRecord.priority, and_(other.priority == JobRecord.priority, earlier))
    queued = and_(other.project_id == JobRecord.project_id, other.status == JobStatus.QUEUED)
    query = select(func.count()).select_from(other).where(queued, ahead)
    return query.correlate(JobRecord).scalar_subquery()


def _view_of(
    job: JobRecord,
    place: int | None,
    user_metadata: dict[str, str] | None,
    kind: str | None,
    step: dict[str, Any] | None,
    evaluation: dict[str, Any] | None,
    checkpoint_id: str | None,
    checkpoint_step: int | None,
    cause: Cause | None,
    attempts: list[list[Any]] | None = None,
    now: float = 0.0,
) -> JobView:
    step_figures = None if step is None else message_adapter.validate_python(step)
    evaluation_figures = None if evaluation is None else message_adapter.validate_python(evaluation)
    return JobView(
        job=job,
        user_metadata=user_metadata or {},
        kind=kind,
        place=place,
        step=step_figures if isinstance(step_figures, StepMetrics) else None,
        evaluation=evaluation_figures if isinstance(evaluation_figures, EvaluationMetrics) else None,
        checkpoint=None if checkpoint_id is None or checkpoint_step is None else (checkpoint_id, checkpoint_step),
        cause=cause,
        attempts=tuple(sorted(AttemptView(*values) for values in attempts or ())),
        now=now,
    )
