"""The documents say what is there: links lead somewhere, printed programs and limits are those of the code."""

import re
from pathlib import Path

import pytest

from cli.hyperparameters import setting_names
from sgg_core.shapes import Limits
from sgg_store.job_state import JobStatus, state_graph

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    dead = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert dead == []


def test_the_readme_prints_the_clients_of_the_examples():
    readme = ROOT / "README.md"
    assert (ROOT / "examples" / "openai_client.py").read_text() in blocks(readme, "python")
    assert (ROOT / "examples" / "curl.sh").read_text() in blocks(readme, "bash")


def test_the_readmes_tree_names_every_package():
    readme = (ROOT / "README.md").read_text()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {name for name in packages if f"    {name}/ " not in readme} == set()


def test_the_state_graph_is_that_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert [line.strip() for line in state_graph().splitlines()] == [
        line.strip() for line in text.splitlines() if " -- " in line and "-->" in line
    ]
    drawn = (ROOT / "docs" / "states.svg").read_text()
    for line in state_graph().splitlines():
        assert line.partition(" -- ")[2].partition(" -->")[0] in drawn
    assert all(f">{status.value}<" in drawn for status in JobStatus)


def test_the_stated_limits_are_those_of_the_code():
    text = (ROOT / "docs" / "data-formats.md").read_text()
    limits = Limits()
    assert f"{limits.max_bytes // 2**20} MiB" in text
    for number in (limits.max_rows, limits.max_field_chars, limits.max_labels, limits.max_label_chars):
        assert f"{number:,}" in text


def test_settings_named_in_the_documents_exist():
    groups = "task|lora|optimization|guidance|evaluation|checkpoint"
    named = {name for document in DOCUMENTS for name in re.findall(rf"`((?:{groups})\.[a-z_]+)`", document.read_text())}
    assert named
    assert named <= set(setting_names())


def test_the_paths_named_in_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:api|worker|cli|sgg_core|sgg_store)/[a-z_/.]*)`", text))
    assert len(named) > 15
    assert {path for path in named if not (ROOT / path).exists()} == set()
