"""The tables of codes, which the troubleshooting page is made of, hold exactly the codes that the sources can send."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import worker.endings  # noqa: F401  # all modules that define errors of the core are loaded
from api import errors
from api.error_codes import REFUSALS
from api.jobs.failures import FAILURES
from sgg_core.errors import DataError, DiskFullError, HelperLostError, SggError
from sgg_core.trials import ContextLengthError, TrialError, WrongEndpointError
from sgg_store.retries import BUDGETS

ROOT = Path(__file__).parents[3]


def calls(package: str, name: str) -> Iterator[ast.Call]:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
                yield node


def literals(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def sent_by_api() -> set[tuple[str, int]]:
    """All pairs of code and status in the sources of the API."""
    found = {(errors._CODES.get(status, "invalid_request"), status) for status in (400, *errors._CODES)}
    for kind, answer in errors.ANSWERS.items():
        for child in (kind, *kind.__subclasses__()):
            status = errors.ANSWERS.get(child, answer).status
            if child not in (errors.ApiError, errors.InvalidRequestError):  # which carry the codes of their problems
                found.add((child.code, status))  # type: ignore[attr-defined]
    for call in calls("api", "RequestProblem"):
        code = call.args[1]
        assert isinstance(code, ast.Constant) or ast.unparse(code) in DYNAMIC, ast.unparse(call)
        found |= {(each, 400) for each in DYNAMIC.get(ast.unparse(code), literals(code))}
    for call in calls("api", "error_response"):
        for keyword in call.keywords:
            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                assert isinstance(call.args[0], ast.Constant)
                found.add((keyword.value.value, call.args[0].value))  # type: ignore[arg-type]
    return found


DYNAMIC = {  # codes that are chosen while the API runs, by the expression that chooses
    "error.code": {"model_not_found", "invalid_training_file", "invalid_validation_file", "invalid_source_file"}
    | {"invalid_retention_file"},
    "failure.code": {kind.code for kind in (TrialError, WrongEndpointError, ContextLengthError)},
}  # fmt: skip


def causes_of_failure() -> set[str]:
    """All codes that a worker, or the budget of a cause, can end a job with."""
    kinds = {*SggError.__subclasses__(), *DataError.__subclasses__()}
    kinds -= {DiskFullError, HelperLostError}  # which give the job back instead
    named = {literals(call.args[0]).pop() for call in calls("worker", "Failure") if literals(call.args[0])}
    named |= {literals(call.args[1]).pop() for call in calls("sgg_store", "fail") if len(call.args) > 2}
    return {kind.code for kind in kinds} | named | {budget.code for budget in BUDGETS.values() if budget.code}


def test_the_table_of_refusals_is_what_the_api_sends() -> None:
    told = [(refusal.code, refusal.status) for refusal in REFUSALS]
    assert set(told) == sent_by_api()
    assert len(told) == len(set(told))


def test_every_failure_of_a_job_is_in_the_table() -> None:
    assert set(FAILURES) == causes_of_failure()


def test_every_code_has_a_cause_and_a_remedy_in_whole_sentences() -> None:
    for entry in (*REFUSALS, *FAILURES.values()):
        assert entry.cause.endswith(".") and entry.remedy.endswith("."), entry
