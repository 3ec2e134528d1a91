"""Base models and adapters that stay loaded: each answers as if it were alone, and the budget holds."""

from __future__ import annotations

import shutil
import time
from functools import partial

import pytest
import torch
from peft.tuners import lora

from sgg_core import shelf as shelves
from sgg_core import trainer
from sgg_core.answering import answer
from sgg_core.base_loading import load_directory
from sgg_core.catalogue import Catalogue
from sgg_core.errors import BaseModelUnavailableError, CheckpointError
from sgg_core.predictor import load_predictor
from sgg_core.reporting import SilentReporter
from sgg_core.shelf import Shelf
from sgg_core.tiny import save_tiny_base
from sgg_core.trials import ClassificationTrial, TextPair, TrialError, WrongEndpointError

train = partial(trainer.train, with_documents=False)  # nobody reads them here

CPU = torch.device("cpu")
QUESTION = ClassificationTrial(inputs=(TextPair(text="a fine day"), TextPair(text="poor", text_pair="and cold")))
BARE = QUESTION.model_copy(update={"labels": ("good", "bad")})


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, entry, training):
    """Three adapters of different seeds, ranks and targets."""
    from sgg_core.base_loading import load_base
    from sgg_core.spec import TrainingSpec

    root = tmp_path_factory.mktemp("adapters")
    for seed, spec_of_lora in enumerate(({"rank": 2}, {"rank": 4, "targets": ["q_proj"]}, {"rank": 3})):
        spec = TrainingSpec.model_validate(
            {
                "base_model": entry.name,
                "lora": spec_of_lora,
                "seed": seed,
                "optimization": {"max_steps": 3, "batch_size": 4, "learning_rate": 0.05},
            }
        )
        train(spec, load_base(entry), training, output=root / f"a{seed}", reporter=SilentReporter())
    return [root / f"a{seed}" for seed in range(3)]


def ask(shelf, entry, adapter, trial=None):
    with shelf.taken(entry, adapter) as (base, fitted):
        return list(answer(base, fitted, trial or (QUESTION if adapter else BARE)))[-1].probabilities


def alone(entry, adapter):
    predictor = load_predictor(adapter, catalogue=Catalogue(()), base=load_directory(entry, entry.source.path, CPU))
    rows = [{"text": each.text, "text_pair": each.text_pair} for each in QUESTION.inputs]
    return [tuple(each["probabilities"].values()) for each in predictor.predict(rows)]


def close(left, right):
    return torch.allclose(torch.tensor(left), torch.tensor(right), atol=1e-6)


def test_all_adapters_compute_as_in_training(entry, adapters):
    """As peft computes, half precision loses small updates."""

    def slow(base):
        layers = [module for module in base.model.modules() if isinstance(module, lora.Linear)]
        assert layers
        return [layer for layer in layers if "forward" not in vars(layer)]

    shelf = Shelf(2**30, CPU)
    for adapter in adapters:
        with shelf.taken(entry, adapter) as (base, _):
            assert slow(base) == []
    base = load_directory(entry, entry.source.path, CPU)
    load_predictor(adapters[0], catalogue=Catalogue(()), base=base)
    assert slow(base) == []


def test_adapters_on_one_base_model_answer_as_each_does_alone_and_the_bare_one_too(entry, adapters):
    shelf = Shelf(2**30, CPU)
    bare = ask(shelf, entry, None)
    expected = [alone(entry, adapter) for adapter in adapters]
    assert not close(expected[0], expected[1])
    for _ in range(2):
        for adapter, own in zip(adapters, expected, strict=True):
            assert close(ask(shelf, entry, adapter), own)
            assert ask(shelf, entry, None) == bare


def test_an_adapter_that_had_to_leave_comes_back(entry, adapters, monkeypatch):
    monkeypatch.setattr(shelves, "MOST_ADAPTERS", 2)
    shelf = Shelf(2**30, CPU)
    first = [ask(shelf, entry, adapter) for adapter in adapters]
    assert [ask(shelf, entry, adapter) for adapter in adapters] == first


def test_switching_reads_nothing_again(entry, adapters, monkeypatch):
    shelf = Shelf(2**30, CPU)
    expected = [ask(shelf, entry, adapter) for adapter in adapters]
    monkeypatch.setattr(shelves, "verify_directory", lambda directory: pytest.fail(f"{directory} was read again"))
    began = time.monotonic()
    assert [ask(shelf, entry, adapter) for adapter in adapters] == expected
    assert time.monotonic() - began < 5


def test_the_adapters_leave_with_their_base_model_and_a_larger_one_is_refused(entry, adapters, tmp_path):
    size = sum(4 * weights.numel() for weights in load_directory(entry, entry.source.path, CPU).model.parameters())
    other = save_tiny_base(tmp_path / "other", seed=1).model_copy(update={"name": "tiny-other"})
    shelf = Shelf(int(1.5 * size), CPU)
    answered = ask(shelf, entry, adapters[0])
    ask(shelf, other, None)
    assert ask(shelf, entry, adapters[0]) == answered
    with pytest.raises(BaseModelUnavailableError, match="SGG_TRIAL_MEMORY_BYTES"):
        ask(Shelf(size // 2, CPU), entry, None)


def test_a_damaged_adapter_and_one_of_another_base_model_are_refused(entry, adapters, tmp_path):
    shelf = Shelf(2**30, CPU)
    shutil.copytree(adapters[0], tmp_path / "damaged")
    with (tmp_path / "damaged" / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(CheckpointError, match="changed"):
        ask(shelf, entry, tmp_path / "damaged")
    other = save_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="another version"):
        ask(Shelf(2**30, CPU), other, adapters[0])
    assert close(ask(shelf, entry, adapters[1]), alone(entry, adapters[1]))


def test_questions_that_a_model_cannot_answer_are_refused(entry, adapters):
    from sgg_core.trials import CompletionTrial, Sampling

    shelf = Shelf(2**30, CPU)
    with pytest.raises(WrongEndpointError, match="/v1/classifications"):
        ask(shelf, entry, adapters[0], CompletionTrial(prompt="x", sampling=Sampling(max_tokens=1)))
    long = BARE.model_copy(update={"labels": ("x" * 600, "y")})
    with pytest.raises(TrialError, match="shorter labels"):
        ask(shelf, entry, None, long)
