"""docs/reliability.md and the fault tests are one list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"


def functions_in(path: Path) -> set[str]:
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {f"{path.name}::{name}" for name in functions if name.startswith("test_")}


def test_every_promise_names_a_test_that_exists_and_every_fault_test_holds_a_promise() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"\b(test_\w+\.py::test_\w+)", text))
    everywhere = {name for path in HERE.parent.rglob("test_*.py") for name in functions_in(path)}
    assert named <= everywhere, f"docs/reliability.md names tests that are not there: {named - everywhere}"
    here = {name for path in HERE.glob("test_*.py") if path != Path(__file__) for name in functions_in(path)}
    assert here <= named, f"docs/reliability.md does not name these fault tests: {here - named}"


def test_the_promises_are_numbered_and_each_has_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 28))
    assert all(re.search(r"`[\w/]*test_\w+\.py::test_\w+`", tests) for _, tests in rows)
