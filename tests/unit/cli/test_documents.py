"""The documents say what is there: links lead somewhere, printed programs and limits are those of the code."""

import re
from pathlib import Path

import pytest

from api.error_codes import REFUSALS
from api.jobs.failures import FAILURES
from cli.hyperparameters import setting_names
from docs.generate.__main__ import generate
from docs.generate.commands import commands
from docs.generate.http import schema
from sgg_core.shapes import Limits
from sgg_store.job_state import TRANSITIONS, JobStatus, state_graph
from sgg_store.state_drawing import drawing

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    dead = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert dead == []


def test_every_page_is_in_the_navigation_and_every_generated_part_has_a_generator(tmp_path):
    generate(tmp_path / "pages")
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    pages = {path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.md")}
    assert {page for page in pages if page not in navigation and not page.startswith("source/")} == set()


def test_every_code_of_an_error_has_an_address_in_the_troubleshooting_page(tmp_path):
    generate(tmp_path / "pages")
    text = (tmp_path / "pages" / "troubleshooting.md").read_text()
    assert {refusal.code for refusal in REFUSALS if f"{{ #{refusal.code} }}" not in text} == set()
    assert {code for code in FAILURES if f"{{ #failed-{code} }}" not in text} == set()


def test_the_references_name_every_path_and_every_command(tmp_path):
    generate(tmp_path / "pages")
    paths = (tmp_path / "pages" / "http-reference.md").read_text()
    assert all(f"`{verb.upper()} {path}`" in paths for path, verbs in schema()["paths"].items() for verb in verbs)
    told = (tmp_path / "pages" / "command-reference.md").read_text()
    assert all(f"## `{path}`" in told for path, _ in commands())


def test_the_readme_prints_the_clients_of_the_examples():
    readme = ROOT / "README.md"
    assert (ROOT / "examples" / "openai_client.py").read_text() in blocks(readme, "python")
    assert (ROOT / "examples" / "curl.sh").read_text() in blocks(readme, "bash")


def test_the_readmes_tree_names_every_package():
    readme = (ROOT / "README.md").read_text()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {name for name in packages if f"\n{name}/ " not in readme} == set()


def test_the_state_graph_is_that_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert [line.strip() for line in state_graph().splitlines()] == [
        line.strip() for line in text.splitlines() if " -- " in line and "-->" in line
    ]


def test_the_drawn_states_are_those_of_the_code():
    assert (ROOT / "docs" / "states.svg").read_text() == drawing(), "run `make pictures`"
    arrows = [line.strip() for line in drawing().splitlines() if "<path d=" in line and "marker" not in line]
    assert len(set(arrows)) == len(TRANSITIONS)
    assert all(f">{label}<" in drawing() for label in TRANSITIONS.values())
    assert all(f">{status.value}<" in drawing() for status in JobStatus)


def test_the_stated_limits_are_those_of_the_code():
    text = (ROOT / "docs" / "data-formats.md").read_text()
    limits = Limits()
    assert f"{limits.max_bytes // 2**20} MiB" in text
    for number in (limits.max_rows, limits.max_field_chars, limits.max_labels, limits.max_label_chars):
        assert f"{number:,}" in text


def test_settings_named_in_the_documents_exist():
    groups = "task|lora|optimization|guidance|evaluation|checkpoint|resources"
    named = {name for document in DOCUMENTS for name in re.findall(rf"`((?:{groups})\.[a-z_]+)`", document.read_text())}
    assert named
    assert named <= set(setting_names())


def test_the_paths_named_in_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:api|worker|cli|sgg_core|sgg_store)/[a-z_/.]*)`", text))
    assert len(named) > 15
    assert {path for path in named if not (ROOT / path).exists()} == set()
