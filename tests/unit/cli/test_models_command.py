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
    no_name = models("add", "theirs", "--kind", "encoder", "--hub", "owner--name", "--revision", REVISION)
    assert no_name.exit_code == 2 and "repo_id" in no_name.stderr
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


@pytest.mark.parametrize(
    ("config", "sees"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"max_position_embeddings": 131_072}, 8192),  # more than task.max_tokens allows
        ({"max_position_embeddings": 32_768, "sliding_window": 4096}, 4096),
        ({"max_position_embeddings": 2048, "sliding_window": 512, "use_sliding_window": False}, 2048),
        ({"max_position_embeddings": 2048, "sliding_window": 512, "layer_types": ["full_attention"]}, 2048),
    ],
    ids=str,
)
def test_what_an_added_model_sees_is_what_its_config_says(models, directory, config, sees):
    (directory / "config.json").write_text(json.dumps(config))
    told = models("add", "mine", "--kind", "causal", "--directory", directory)
    assert f"mine with a context of {sees:,} tokens" in told.stdout and told.stderr == ""
    added = json.loads(models("add", "mine", "--kind", "causal", "--directory", directory, "--json").stdout)
    assert added["context_tokens"] == sees


@pytest.mark.parametrize("config", ["{}", "[]", "{", '{"max_position_embeddings": "many"}', '{"n_positions": -1}'])
def test_what_no_config_says_is_512_tokens_unless_an_option_does(models, directory, config):
    (directory / "config.json").write_text(config)
    command = ("add", "mine", "--kind", "causal", "--directory", directory, "--json")
    told = models(*command)
    assert json.loads(told.stdout)["context_tokens"] == 512
    assert "--context-tokens" in told.stderr
    told = models(*command, "--context-tokens", 20_000)
    assert (json.loads(told.stdout)["context_tokens"], told.stderr) == (20_000, "")


def test_what_a_hub_model_sees_is_known_once_its_files_are_here(models, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    command = ("add", "theirs", "--kind", "causal", "--hub", "owner/name", "--revision", REVISION, "--json")
    told = json.loads(models(*command).stdout)
    assert (told["context_tokens"], told["files"]) == (512, None)
    assert f"hf download owner/name --revision {REVISION}" in told["problem"]
    assert told["problem"] in models(*command[:-1]).stdout
    snapshot = tmp_path / "models--owner--name" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"max_position_embeddings": 4096}')
    told = json.loads(models(*command).stdout)
    assert (told["context_tokens"], told["files"], told["problem"]) == (4096, str(snapshot), None)
