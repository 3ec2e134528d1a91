"""The real base models of the catalogue: found in their packages, converted once, trained for two steps, and used."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sgg_core.base_files import weights_directory
from sgg_core.base_loading import load_base
from sgg_core.catalogue import BaseModelEntry, Catalogue, DirectorySource
from sgg_core.errors import BaseModelUnavailableError
from sgg_core.examples import parse_examples
from sgg_core.predictor import load_predictor
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec
from sgg_core.trainer import train

pytestmark = pytest.mark.base_model

ROWS = [
    {"text": f"{how} {what}", "label": label}
    for label, how in (("praise", "I love the"), ("complaint", "I want my money back for the"))
    for what in ("shoes", "book", "phone", "lamp")
]
FEW = parse_examples("\n".join(json.dumps(row) for row in ROWS).encode(), "few.jsonl")


def entry_of(name):
    entry = Catalogue.load().get(name)
    try:
        entry.source.locate()
    except BaseModelUnavailableError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return entry


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def smollm(cache):
    torch.set_num_threads(1)
    return load_base(entry_of("smollm2-135m-instruct"), cache, torch.device("cpu"))


@pytest.fixture(scope="module")
def minilm(cache):
    torch.set_num_threads(1)
    return load_base(entry_of("all-minilm-l6-v2"), cache, torch.device("cpu"))


def trained(base, output, **task):
    optimization = {"max_steps": 2, "batch_size": 4}
    fields = {"base_model": base.entry.name, "optimization": optimization, "guidance": {"ramp_fraction": 0}}
    spec = TrainingSpec.model_validate(fields | {"task": task})
    reporter = SilentReporter()
    finished = train(spec, base, FEW, output=output, reporter=reporter, validation=FEW)
    assert finished.step == 2
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    checked = report["verification"]
    assert checked["reloaded"] and checked["max_difference"] == 0.0 and 2 <= checked["probes"] <= 8
    assert report["final"]["valid_loss"] < report["baseline"]["loss"]
    return report


def predicted(base, directory, catalogue=None):
    predictor = load_predictor(directory, catalogue=catalogue or Catalogue.load(), base=base)
    try:
        return [answer["label"] for answer in predictor.predict([{"text": row["text"]} for row in ROWS])]
    finally:
        predictor.close()


def test_the_language_model_is_what_its_entry_says(smollm):
    assert sum(parameter.numel() for parameter in smollm.model.parameters()) == smollm.entry.parameters
    assert smollm.model.config.max_position_embeddings == smollm.entry.context_tokens
    assert {parameter.dtype for parameter in smollm.model.parameters()} == {torch.float32}
    ids = smollm.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        following = smollm.model(input_ids=ids).logits[0, -1].argmax()
    assert smollm.tokenizer.decode(following) == " Paris"


def test_the_encoder_is_what_its_entry_says(minilm):
    pooler = 384 * 384 + 384  # counted by the entry, dropped when loaded
    assert sum(parameter.numel() for parameter in minilm.model.parameters()) == minilm.entry.parameters - pooler
    assert minilm.model.config.max_position_embeddings >= minilm.entry.context_tokens


def test_a_quantized_file_is_converted_once_and_then_reused(smollm, cache, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # a second conversion would need it
    before = {path.name: path.stat().st_mtime_ns for path in smollm.directory.iterdir()}
    assert weights_directory(smollm.entry, cache) == smollm.directory
    assert {path.name: path.stat().st_mtime_ns for path in smollm.directory.iterdir()} == before
    names = sorted(path.name for path in cache.iterdir())
    assert names == [smollm.directory.name, "smollm2-135m-instruct.lock"]
    weights = load_file(smollm.directory / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


def test_the_language_model_learns_and_answers(smollm, tmp_path):
    trained(smollm, tmp_path / "out", description="Is it praise or a complaint?")
    assert predicted(smollm, tmp_path / "out") == [row["label"] for row in ROWS]


def test_the_encoder_learns_and_answers(minilm, tmp_path):
    trained(minilm, tmp_path / "out")
    assert predicted(minilm, tmp_path / "out") == [row["label"] for row in ROWS]


def test_a_directory_that_the_administrator_added_works_like_a_built_in_one(minilm, tmp_path):
    copy = Path(shutil.copytree(minilm.directory, tmp_path / "weights"))
    catalogue = Catalogue.load(tmp_path / "data")
    catalogue.add(BaseModelEntry(name="mine", kind="encoder", source=DirectorySource(path=copy)))
    base = load_base(Catalogue.load(tmp_path / "data").get("mine"), device=torch.device("cpu"))
    assert base.sha256 == minilm.sha256
    report = trained(base, tmp_path / "out")
    assert report["base_model"] == "mine"
    assert predicted(None, tmp_path / "out", catalogue) == predicted(base, tmp_path / "out")
