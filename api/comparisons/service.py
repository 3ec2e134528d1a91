"""What several jobs have in common and what they have not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from api.auth import Caller
from api.comparisons.schemas import ComparedJobOut, ComparisonOut, DifferenceOut, PairOut
from api.dependencies import Services
from api.errors import InvalidRequestError
from api.validation import RequestProblem
from sgg_core.evidence import Measure, difference_in_words
from sgg_core.report import ANSWERS, REPORT, TrainingReport
from sgg_core.significance import paired_difference, paired_loss_difference
from sgg_store.errors import ObjectNotFoundError
from sgg_store.jobs import Jobs
from sgg_store.metrics import FIGURES, Metrics, Window
from sgg_store.objects import ObjectStore
from sgg_store.records import JobRecord
from sgg_store.reports import key_of_report

MOST_JOBS = 8
NOT_COMPARED = ("seconds", "tokens", "epoch", "replica")  # of the machine, the data and the order, not of the training


@dataclass(frozen=True, slots=True)
class Judged:
    """What a comparison needs of a job's answers, and no more: those of eight jobs are held at the same time.

    `hits` are of labelled examples; `tokens`, and the loss of all of these in `totals`, are of other texts.
    """

    hits: list[bool] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[bytes]) -> Judged:
        """Read the answers, one a line."""
        judged = cls()
        for line in lines:
            row = json.loads(line)
            if "tokens" in row:
                judged.tokens.append(row["tokens"])
                judged.totals.append(row["loss"] * row["tokens"])
            else:
                judged.hits.append(row["label"] == row["predicted"])
        return judged

    @property
    def known(self) -> bool:
        """Whether there is an answer."""
        return bool(self.hits or self.tokens)


@dataclass(frozen=True, slots=True)
class Compared:
    """A job with what is known of its end; the report is None before that, or where an older version made it."""

    job: JobRecord
    report: TrainingReport | None = None
    answers: Judged = field(default_factory=Judged)


def compare(services: Services, caller: Caller, named: str, resolution: int) -> ComparisonOut:
    """Compare the jobs whose ids are `named`. Raises RecordNotFoundError, InvalidRequestError for too few or many."""
    ids = list(dict.fromkeys(part.strip() for part in named.split(",") if part.strip()))
    if not 2 <= len(ids) <= MOST_JOBS:
        message = (
            f"The request names {len(ids)} different jobs. Name 2 to {MOST_JOBS} by their ids, separated by commas."
        )
        raise InvalidRequestError([RequestProblem("jobs", "invalid_value", message)])
    with services.database.read() as session:
        jobs = [Jobs(session).get(caller.project_id, job_id) for job_id in ids]
        keys = [[key_of_report(session, job, name) for name in (REPORT, ANSWERS)] for job in jobs]
        metrics = Metrics(session)
        points = {job.id: metrics.curves(job.id, FIGURES, Window(resolution=resolution)).points for job in jobs}
    found = [_compared(services.objects, job, *pair) for job, pair in zip(jobs, keys, strict=True)]
    curves = {
        name: {job_id: [(point.step, point.mean) for point in of[name]] for job_id, of in points.items() if of[name]}
        for name in FIGURES
        if name not in NOT_COMPARED
    }
    return ComparisonOut(
        jobs=[_job_out(each) for each in found],
        spec_differences=list(_differences(jobs)),
        curves={name: of for name, of in curves.items() if of},
        paired=[_paired(first, second) for first, second in combinations(found, 2)],
    )


def _compared(objects: ObjectStore, job: JobRecord, report_key: str | None, answers_key: str | None) -> Compared:
    report = None if report_key is None else _read(objects, report_key)
    answers = None if answers_key is None else _read(objects, answers_key)
    if report is None:
        return Compared(job)
    return Compared(job, TrainingReport.model_validate_json(report), Judged.read((answers or b"").splitlines()))


def _read(objects: ObjectStore, key: str) -> bytes | None:
    try:
        return b"".join(objects.open(key))
    except ObjectNotFoundError:  # without a validation file there are no answers
        return None


def _job_out(found: Compared) -> ComparedJobOut:
    final = found.report.final if found.report else None
    return ComparedJobOut(
        id=found.job.id,
        name=found.job.fine_tuned_model,
        model=found.job.base_model,
        metadata=dict(found.job.user_metadata),
        suffix=found.job.suffix,
        status=found.job.status.value,
        valid_accuracy=final.valid_accuracy if final else None,
        valid_loss=final.valid_loss if final else None,
    )


def _differences(jobs: Sequence[JobRecord]) -> Iterator[DifferenceOut]:
    told = {job.id: _choices(job) for job in jobs}
    for name in dict.fromkeys(name for choices in told.values() for name in choices):
        values = {job_id: choices.get(name) for job_id, choices in told.items()}
        if any(value != values[jobs[0].id] for value in values.values()):
            yield DifferenceOut(field=name, values=values)


def _choices(job: JobRecord) -> dict[str, Any]:
    """Everything that a job was told, by dotted names."""
    choices: dict[str, Any] = {
        "training_file": job.training_file_id,
        "validation_file": job.validation_file_id,
        "sources": job.source_file_ids,
        "retention_file": job.retention_file_id,
        "start_from": job.start_name,
    }
    for name, value in job.spec.items():
        choices |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return choices


def _paired(first: Compared, second: Compared) -> PairOut:
    a, b = first.job.id, second.job.id
    if (reason := _unpaired(first, second)) is not None:
        return PairOut(a=a, b=b, verdict=reason)
    of_labels = first.report is not None and first.report.kind == "classification"
    measure: Measure = "accuracy" if of_labels else "loss"
    if of_labels:
        found = paired_difference(first.answers.hits, second.answers.hits)
    else:
        found = paired_loss_difference(first.answers.totals, second.answers.totals, first.answers.tokens)
    return PairOut(
        a=a,
        b=b,
        metric=measure,
        difference=found.difference,
        low=found.low,
        high=found.high,
        items=found.items,
        verdict=difference_in_words(found, f'"{first.job.model_name}"', f'"{second.job.model_name}"', measure=measure),
    )


def _unpaired(first: Compared, second: Compared) -> str | None:
    """Why two jobs cannot be paired, in words; None if they can."""
    for each in (first, second):
        if each.report is None:
            return f"{each.job.id} is {each.job.status} and has no report, so its answers cannot be compared."
        if each.report.validation_sha256 is None:
            return f"{each.job.id} had no validation file, so it has no answers to compare."
        if not each.answers.known:
            return f"{each.job.id} was trained by an older version, which kept no single answers; compare the losses."
    assert first.report is not None and second.report is not None
    if first.report.validation_sha256 != second.report.validation_sha256:
        return "The jobs had different validation files. Train both with the same one to compare them."
    if first.answers.tokens != second.answers.tokens:
        return "The base models split the texts into different tokens, so losses per token cannot be compared."
    return None
