"""What the scripts under benchmarks/ write beside their figures: the same as the published pages say."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_commands_name_the_number_of_threads_where_it_is_set(script, monkeypatch):
    command = script("commands").command
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert command(["a.py", "--note", "two words"]) == "OMP_NUM_THREADS=1 python a.py --note 'two words'"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert command(["a.py"]) == "python a.py"


def test_the_page_of_forecasts_has_the_command_that_was_run(script):
    table = script("forecast").table(json.loads((RESULTS / "forecast.json").read_bytes()))
    (typed,) = [line for line in table.splitlines() if "python benchmarks/forecast.py" in line]
    assert typed in (RESULTS / "forecast.md").read_text().splitlines()
    assert typed.startswith("OMP_NUM_THREADS=1 ")


def test_the_page_of_doubts_says_by_what_they_were_chosen(script):
    results = json.loads((RESULTS / "doubts.json").read_bytes())
    table = script("doubts").table(results["found"], results["command"])
    told = "Layers and weights were chosen on agnews and mr, with trec and sst2 in sight."
    page = (RESULTS / "doubts.md").read_text()
    assert all(told in " ".join(text.split()) for text in (table, page))
    assert results["command"] in table.splitlines() and results["command"] in page.splitlines()
