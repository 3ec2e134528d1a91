"""A dry run: the checks of a real request, the workers' own reading of the files, and what they say of the costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.auth import Caller
from api.dependencies import Services
from api.errors import InvalidRequestError, ModelUnavailableError, PermissionDeniedError, TrialFailedError
from api.files.facts import FileFacts
from api.jobs.dry_run_schemas import DataOut, DryRunOut, EstimateOut, FindingOut, QueueOut, RangeOut
from api.jobs.requests import CheckedRequest, check_request, forbidden_priority
from api.jobs.schemas import Hyperparameters
from api.trials.asking import ask_for_one
from api.validation import RequestProblem
from sgg_core.errors import Problem
from sgg_core.estimate import Workload, memory_need, reference_seconds
from sgg_core.lineup import total_steps
from sgg_core.plan import LEARNING_RATE, Plan, make_plan
from sgg_core.significance import smallest_difference
from sgg_core.spec import TrainingSpec
from sgg_core.token_limit import token_limit
from sgg_core.trials import Survey, SurveyTrial
from sgg_store.durations import expected_duration
from sgg_store.errors import QuotaExceededError, TrialQueueFullError
from sgg_store.outlook import Line, Spread
from sgg_store.quotas import Quotas
from sgg_store.records import FileRecord
from sgg_store.trials import NewTrial, StoredFile

PARAMS = {"training": "training_file", "validation": "validation_file"}
OF_SETTINGS = {"retention": "retention_file"}
CODES = {
    "training": "invalid_training_file",
    "validation": "invalid_validation_file",
    "retention": "invalid_retention_file",
}


@dataclass
class Findings:
    """Collects what is found, each thing once."""

    found: dict[FindingOut, None] = field(default_factory=dict)

    def add_error(self, code: str, param: str | None, message: str) -> None:
        """Add something that speaks against the request; the message ends with what to do."""
        reason, stop, remedy = message.rpartition(". ")
        told = (reason + ".", remedy) if stop else (message, "")
        self._add("error", code, param, None, Problem(None, None, *told))

    def add_warning(self, code: str, param: str, reason: str, remedy: str) -> None:
        """Add something that does not speak against the request."""
        self._add("warning", code, param, None, Problem(None, None, reason, remedy))

    def add_file(self, severity: str, code: str, param: str, file_id: str, problems: Iterable[Problem]) -> None:
        """Add what was found in a file."""
        for problem in problems:
            self._add(severity, code, param, file_id, problem)

    def in_order(self) -> list[FindingOut]:
        """Give errors first, otherwise in the order in which they were found."""
        return sorted(self.found, key=lambda finding: finding.severity)

    def _add(self, severity: Any, code: str, param: str | None, file_id: str | None, problem: Problem) -> None:
        finding = FindingOut(
            severity=severity,
            code=code,
            param=param,
            file_id=file_id,
            line=problem.line,
            field=problem.field,
            reason=problem.reason,
            remedy=problem.remedy,
        )
        self.found[finding] = None


async def dry_run(services: Services, caller: Caller, request: Request, body: dict[str, Any]) -> DryRunOut:
    """Say what would become of a request for a job, without making one. Raises nothing for what is wrong with it."""
    checked = await run_in_threadpool(check_request, services, caller, body)
    findings = Findings()
    for problem in _of_request(checked):
        findings.add_error(problem.code, problem.param, problem.message)
    await run_in_threadpool(_expect_admission, services, caller, checked, findings)
    await run_in_threadpool(_add_from_checks, checked, findings)
    survey = await _survey(services, caller, request, checked, findings)
    seconds = await run_in_threadpool(_duration, services, checked, survey)
    plan = _plan(checked)
    return DryRunOut(
        valid=not any(finding.severity == "error" for finding in findings.found),
        findings=findings.in_order(),
        hyperparameters=None if plan is None else _resolved(_spec(checked), plan, checked),
        data=_data(checked, survey),
        estimate=None if plan is None else _estimate(checked, plan, survey, seconds),
        queue=await run_in_threadpool(_queue, services, caller, checked),
        smallest_difference=_smallest_difference(checked),
    )


def _of_request(checked: CheckedRequest) -> Iterator[RequestProblem]:
    """Yield the problems that are not those of files."""
    in_files = [problem for problem, _, _ in checked.data.in_files]
    yield from (problem for problem in checked.problems if problem not in in_files)


def _add_from_checks(checked: CheckedRequest, findings: Findings) -> None:
    for problem, record, error in checked.data.in_files:
        findings.add_file("error", error.code, problem.param or "", record.id, error.problems)


def _expect_admission(services: Services, caller: Caller, checked: CheckedRequest, findings: Findings) -> None:
    """Find what would be refused though it is well said: a priority that is not the caller's, a used up quota."""
    forbidden = forbidden_priority(caller, checked.draft)
    if forbidden is not None:
        findings.add_error(PermissionDeniedError.code, f"{checked.draft.settings_path}priority", forbidden)
    try:
        with services.database.read() as session:
            Quotas(session, services.settings.quotas).expect_job(caller.project_id)
    except QuotaExceededError as error:
        findings.add_error(error.code, None, str(error))


async def _survey(
    services: Services, caller: Caller, request: Request, checked: CheckedRequest, findings: Findings
) -> Survey | None:
    """Let a worker read the files, and add what it finds; without one, add what their uploads found."""
    files, entry = checked.data.files, checked.data.entry
    if entry is not None and "training" in files:
        trial = SurveyTrial(spec=_spec(checked), filenames={role: file.filename for role, file in files.items()})
        new = NewTrial(
            project_id=caller.project_id,
            base_model=entry.name,
            request=trial.model_dump(mode="json"),
            files={role: StoredFile(key=file.object_key, sha256=file.sha256) for role, file in files.items()},
        )
        try:
            answer = await ask_for_one(services, request, new)
        except InvalidRequestError as error:
            for problem in error.problems:
                param = problem.param or f"{checked.draft.settings_path}hyperparameters"
                findings.add_error(problem.code, param, problem.message)
        except (TrialFailedError, ModelUnavailableError, TrialQueueFullError) as error:
            reason = f"No worker could read the files: {error}"
            remedy = "Tokens, memory and what only the base model's tokenizer shows are left out."
            findings.add_warning("not_surveyed", "model", reason, remedy)
        else:
            if isinstance(answer, Survey):
                await run_in_threadpool(_add_surveyed, answer, files, checked, findings)
                return answer
    await run_in_threadpool(_add_from_uploads, files, checked, findings)
    return None


def _add_from_uploads(files: dict[str, FileRecord], checked: CheckedRequest, findings: Findings) -> None:
    for role, file in files.items():
        warnings = FileFacts.model_validate(file.facts).warnings if file.facts else ()
        findings.add_file("warning", "suspicious_data", _param(role, checked), file.id, warnings)


def _add_surveyed(survey: Survey, files: dict[str, FileRecord], checked: CheckedRequest, findings: Findings) -> None:
    for role, surveyed in survey.files.items():
        param, file_id = _param(role, checked), files[role].id
        code = CODES.get(role, "invalid_source_file")
        findings.add_file("error", code, param, file_id, surveyed.problems)
        findings.add_file("warning", "suspicious_data", param, file_id, surveyed.warnings)


def _param(role: str, checked: CheckedRequest) -> str:
    return PARAMS.get(role) or checked.draft.settings_path + OF_SETTINGS.get(role, "sources")


def _spec(checked: CheckedRequest) -> TrainingSpec:
    draft = checked.draft
    return draft.training_spec(0 if draft.seed is None else draft.seed)


def _facts(checked: CheckedRequest, role: str) -> FileFacts | None:
    file = checked.data.files.get(role)
    return None if file is None or file.facts is None else FileFacts.model_validate(file.facts)


def _plan(checked: CheckedRequest) -> Plan | None:
    entry, facts = checked.data.entry, _facts(checked, "training")
    return None if entry is None or facts is None else make_plan(_spec(checked), entry.kind, *facts.sizes)


def _data(checked: CheckedRequest, survey: Survey | None) -> DataOut | None:
    facts = _facts(checked, "training")
    if facts is None:
        return None
    read = survey.files.get("training") if survey is not None else None
    if read is not None and read.problems:  # then its tokens were not counted
        read = None
    return DataOut(
        examples=facts.examples,
        labels=facts.label_counts if read is None else read.labels,
        tokens=None if read is None else read.tokens,
        truncated=None if read is None else read.truncated,
    )


def _duration(services: Services, checked: CheckedRequest, survey: Survey | None) -> Spread | None:
    if survey is None or survey.workload is None or checked.data.entry is None:
        return None
    with services.database.read() as session:
        return expected_duration(session, checked.data.entry.name, reference_seconds(survey.workload))


def _queue(services: Services, caller: Caller, checked: CheckedRequest) -> QueueOut:
    """Give the place of a job that came last of its project's with the same priority."""
    outlook = services.forecasts.outlook()
    priority = checked.draft.settings.priority
    own = outlook.lines.get(caller.project_id, Line())
    place = 1 + sum(count for each, count in own.queued.items() if each >= priority)
    position = outlook.position(caller.project_id, priority, place)
    start = outlook.of_queued(checked.draft.model or "", position, now=0.0).start
    return QueueOut(position=position, starts_in_seconds=_range(start))


def _estimate(checked: CheckedRequest, plan: Plan, survey: Survey | None, seconds: Spread | None) -> EstimateOut:
    spec, entry, facts = _spec(checked), checked.data.entry, _facts(checked, "training")
    assert entry is not None and facts is not None
    load = survey.workload if survey is not None else None
    return EstimateOut(
        steps=total_steps(spec, entry.kind, *facts.sizes),
        epochs=plan.epochs,
        tokens=survey.trained_tokens if survey is not None and load is not None else None,
        peak_memory_bytes=None if load is None else _peak(spec, load),
        seconds=_range(seconds),
    )


def _peak(spec: TrainingSpec, load: Workload) -> int:
    """With as many replicas at once as can share their passes."""
    at_once = spec.optimization.most_at_once if spec.lonely is None else 1
    return memory_need(load).model_copy(update={"replicas": at_once}).alone


def _range(spread: Spread | None) -> RangeOut | None:
    if spread is None:
        return None
    low, expected, high = (round(each, 1) for each in (spread.early, spread.likely, spread.late))
    return RangeOut(low=low, expected=expected, high=high)


def _resolved(spec: TrainingSpec, plan: Plan, checked: CheckedRequest) -> dict[str, Any]:
    """Give the hyperparameters under the names of a request, with the plan's numbers for every `auto`."""
    values: dict[str, Any] = Hyperparameters.of(spec).model_dump(mode="json")
    entry, facts = checked.data.entry, _facts(checked, "training")
    assert entry is not None and facts is not None
    values |= {"n_epochs": plan.epochs, "batch_size": plan.batch_size, "clip_norm": plan.clip_norm}
    values["balanced_batches"] = plan.balanced
    if values["learning_rate"] == "auto":
        values["learning_rate"] = LEARNING_RATE[entry.kind]
    values["learning_rate_multiplier"] = spec.optimization.multiplier
    values["task"] |= {"type": facts.kind, "max_tokens": token_limit(spec.task.max_tokens, entry, facts.kind)}
    values["evaluation"]["every_steps"] = plan.evaluate_every
    if plan.objective == "contrast" or plan.label_names != "auto":
        values["task"]["objective"] = plan.objective
    else:
        del values["task"]["objective"]  # called by its name it would leave out the names of labels
    if values["task"]["label_names"] == "auto":
        del values["task"]["label_names"]  # the base model is asked when training begins
    if "guidance" in values:  # plain LoRA has none
        values["guidance"]["source_weight"] = spec.guidance.source_rule
    if values["evaluation"]["baselines"] == "auto":
        del values["evaluation"]["baselines"]  # what that is depends on the worker's device
    values["checkpoint"]["every_steps"] = plan.checkpoint_every
    return values


def _smallest_difference(checked: CheckedRequest) -> float | None:
    facts = _facts(checked, "validation")
    return None if facts is None or facts.kind != "classification" else smallest_difference(facts.examples)
