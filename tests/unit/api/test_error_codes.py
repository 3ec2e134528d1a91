"""The tables of codes in docs/api.md hold exactly the codes that the sources can send."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import worker.endings  # noqa: F401  # all modules that define errors of the core are loaded
from api import errors
from api.jobs.presentation import REMEDIES
from sgg_core.errors import DataError, DiskFullError, SggError
from sgg_store.retries import BUDGETS

ROOT = Path(__file__).parents[3]
REFUSED, FAILED = (ROOT / "docs" / "api.md").read_text().split("### Codes of ")[1:]


def calls(package: str, name: str) -> Iterator[ast.Call]:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield node


def literals(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def sent_by_api() -> set[tuple[str, int]]:
    """All pairs of code and status in the sources of the API."""
    found = {(errors._CODES.get(status, "invalid_request"), status) for status in (400, 404, 405, 413)}
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
    "error.code": {"model_not_found", "invalid_training_file", "invalid_validation_file", "invalid_source_file"},
}  # fmt: skip


def causes_of_failure() -> set[str]:
    """All codes that a worker, or the budget of a cause, can end a job with."""
    kinds = {*SggError.__subclasses__(), *DataError.__subclasses__()}
    kinds.remove(DiskFullError)  # which gives the job back instead
    named = {literals(call.args[0]).pop() for call in calls("worker", "Failure") if literals(call.args[0])}
    return {kind.code for kind in kinds} | named | {budget.code for budget in BUDGETS.values() if budget.code}


def test_the_table_of_refusals_is_what_the_api_sends() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$", REFUSED, re.MULTILINE)
    documented = {(code, int(status)) for code, status, _, _ in rows}
    assert documented == sent_by_api()
    assert len(rows) == len(documented)
    assert all(meaning.strip() and remedy.strip() for _, _, meaning, remedy in rows)


def test_every_failure_of_a_job_has_a_remedy_and_a_line_in_the_documents() -> None:
    documented = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", FAILED, re.MULTILINE)
    assert set(REMEDIES) == causes_of_failure() == set(documented)
    assert all(REMEDIES.values()) and len(documented) == len(set(documented))
