"""How soon a service is up, a job trains, and its adapter is there: rows of measurements, and their tables. No torch.

All times are a client's, in seconds, from the start of the server's process or from a job's POST.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel

from sgg_core.bench.cluster import percentile
from sgg_core.card import table

Seconds = Annotated[float, AfterValidator(lambda value: round(value, 4))]

Case = Literal["cold", "warm", "another", "in turns"]
CASES: dict[Case, str] = {
    "cold": "the first job, sent as soon as the server is ready",
    "warm": "further jobs on the same base model",
    "another": "the first job on another base model",
    "in turns": "jobs on the base models in turns, all of them loaded",
}


class ServerStart(BaseModel):
    """A server's start, in seconds until: it answers, it is ready, and its trainer has imported everything."""

    type: Literal["start"] = "start"
    server: int
    answers: Seconds
    ready: Seconds
    trainer: Seconds


class BaseLoad(BaseModel):
    """The loading of a base model by the trainer, which nobody measures but itself."""

    type: Literal["load"] = "load"
    server: int
    base_model: str
    seconds: Seconds


class JobTimes(BaseModel):
    """A job, in seconds from its POST until: it is answered, training begins, the first step's figures can be read,
    and the adapter is downloaded."""

    type: Literal["job"] = "job"
    server: int
    case: Case
    base_model: str
    answer: Seconds
    training: Seconds
    first_step: Seconds
    adapter: Seconds


Row = ServerStart | BaseLoad | JobTimes


def jobs_of(rows: Iterable[Row], case: Case) -> dict[str, list[JobTimes]]:
    """The jobs of a case by their base models, in the order in which these came first."""
    found: dict[str, list[JobTimes]] = {}
    for row in rows:
        if isinstance(row, JobTimes) and row.case == case:
            found.setdefault(row.base_model, []).append(row)
    return found


def as_tables(rows: Sequence[Row]) -> str:
    """Three tables as Markdown: the jobs, the server's start, and the loading of base models; each cell p50 and p95."""
    jobs = [
        [
            case,
            base_model,
            len(found),
            *(_spread(found, figure) for figure in ("answer", "training", "first_step", "adapter")),
        ]
        for case in CASES
        for base_model, found in jobs_of(rows, case).items()
    ]
    starts = [row for row in rows if isinstance(row, ServerStart)]
    loads: dict[str, list[BaseLoad]] = {}
    for row in rows:
        if isinstance(row, BaseLoad):
            loads.setdefault(row.base_model, []).append(row)
    tables = [
        table(["jobs", "base model", "number", "answer", "training", "first step", "adapter"], jobs),
        table(
            ["servers", "answers", "ready", "trainer ready"],
            [[len(starts), *(_spread(starts, figure) for figure in ("answers", "ready", "trainer"))]],
        ),
        table(
            ["base model", "loads", "loading"],
            [[name, len(found), _spread(found, "seconds")] for name, found in loads.items()],
        ),
    ]
    return "\n\n".join(tables)


def _spread(rows: Sequence[Row], figure: str) -> str:
    values = [getattr(row, figure) for row in rows]
    return f"{_in_words(percentile(values, 50))} ({_in_words(percentile(values, 95))})"


def _in_words(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
