"""Whatever the packages import is named in pyproject.toml, so that it stays when another package needs it no longer."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "cli", "sgg_core", "sgg_store")
# parts of a framework that is named, with which they have to fit
PARTS = {"starlette", "huggingface_hub", "jinja2", "tokenizers", "datasets", "sentence_transformers", "sklearn"}


def imported():
    """The modules of others that our packages import, by the first part of their names."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_distribution_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    named = {normal(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}
    distributions = packages_distributions()
    others = set(imported()) - {*PACKAGES, "migrations", *sys.stdlib_module_names, *PARTS}
    found = {module: {normal(name) for name in distributions.get(module, [module])} for module in others}
    assert {"numpy", "PIL", "pydantic"} <= others
    assert not {module: names for module, names in found.items() if not names & named}
