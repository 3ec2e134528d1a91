import json

import pytest
from typer.testing import CliRunner

from cli.main import app

REVISION = "0123456789" * 4


@pytest.fixture
def models(monkeypatch, tmp_path):
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments: CliRunner().invoke(app, ["models", *map(str, arguments)])


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    return tmp_path / "weights"


def names(models):
    return {row["name"] for row in json.loads(models("list", "--json").stdout)}


def test_an_added_directory_is_listed_with_its_place_until_it_is_removed(models, directory):
    before = names(models)
    assert models("add", "mine", "--kind", "causal", "--directory", directory).exit_code == 0
    assert names(models) == before | {"mine"}
    assert str(directory) in models("list").stdout
    assert models("remove", "mine").exit_code == 0
    assert names(models) == before


def test_a_hub_model_needs_a_full_commit_hash(models):
    hub = ("add", "theirs", "--kind", "encoder", "--hub", "owner/name")
    assert "--revision" in models(*hub).stderr
    assert models(*hub, "--revision", "main").exit_code == 2
    assert models(*hub, "--revision", REVISION).exit_code == 0
    assert "theirs" in names(models)


def test_a_source_must_be_named_once(models, directory):
    assert models("add", "mine", "--kind", "causal").exit_code == 2
    both = models("add", "mine", "--kind", "causal", "--directory", directory, "--hub", "a/b")
    assert both.exit_code == 2


def test_a_directory_without_a_model_is_refused(models, tmp_path):
    result = models("add", "mine", "--kind", "causal", "--directory", tmp_path)
    assert result.exit_code == 1
    assert "config.json" in result.stderr


def test_built_in_models_stay(models):
    result = models("remove", "smollm2-135m-instruct")
    assert result.exit_code == 1
    assert "built in" in result.stderr


def test_an_unknown_name_is_answered_with_the_known_ones(models, directory):
    models("add", "mine", "--kind", "causal", "--directory", directory)
    result = models("remove", "mien")
    assert result.exit_code == 1
    assert "'mine'" in result.stderr


def test_a_directory_that_has_gone_is_told(models, directory):
    models("add", "mine", "--kind", "causal", "--directory", directory)
    (directory / "config.json").unlink()
    directory.rmdir()
    assert "is missing" in models("list").stdout
