"""Base models that stay in memory: each is loaded once, the budget holds, and what was used last stays."""

from __future__ import annotations

import shutil
import weakref

import pytest
import torch

from sgg_core.errors import BaseModelUnavailableError
from sgg_core.loaded_bases import LoadedBases
from sgg_core.lora_layers import lora
from sgg_core.spec import LoraSpec
from sgg_core.tiny import save_tiny_base

CPU = torch.device("cpu")
PLENTY = 2**30


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Three base models of one size."""
    root = tmp_path_factory.mktemp("bases")
    return [
        save_tiny_base(root / str(seed), seed=seed).model_copy(update={"name": f"tiny-{seed}"}) for seed in range(3)
    ]


@pytest.fixture(scope="module")
def size(entries):
    """Bytes of one; its file has a header besides the weights."""
    return (entries[0].source.path / "model.safetensors").stat().st_size


def test_a_base_model_is_loaded_once(entries):
    bases = LoadedBases(CPU)
    first = [bases.take(entry, PLENTY) for entry in entries]
    again = [bases.take(entry, PLENTY) for entry in reversed(entries)][::-1]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert bases.names == ("tiny-2", "tiny-1", "tiny-0")


def test_the_one_that_was_not_used_for_longest_leaves_and_its_memory_is_free(entries, size):
    left = []
    bases = LoadedBases(CPU, on_leave=left.append)
    models = {entry.name: weakref.ref(bases.take(entry, int(2.5 * size)).model) for entry in entries[:2]}
    bases.take(entries[0], int(2.5 * size))
    bases.take(entries[2], int(2.5 * size))
    assert bases.names == ("tiny-0", "tiny-2") and left == ["tiny-1"]
    assert models["tiny-0"]() is not None and models["tiny-1"]() is None


def test_a_smaller_budget_lets_others_go_but_never_the_one_that_is_asked_for(entries, size):
    bases = LoadedBases(CPU)
    kept = [bases.take(entry, PLENTY) for entry in entries][1]
    assert bases.take(entries[1], 2 * size) is kept and bases.names == ("tiny-2", "tiny-1")
    assert bases.take(entries[1], 0) is kept and bases.names == ("tiny-1",)


def test_one_that_exceeds_the_budget_alone_is_loaded_alone_or_refused(entries, size):
    bases = LoadedBases(CPU)
    bases.take(entries[0], size)
    assert bases.take(entries[1], size // 2).entry is entries[1] and bases.names == ("tiny-1",)
    strict = LoadedBases(CPU, if_too_large="Raise it.")
    strict.take(entries[0], size)
    with pytest.raises(BaseModelUnavailableError, match="Raise it"):
        strict.take(entries[1], size // 2)
    assert strict.names == ("tiny-0",)


def test_an_adapter_on_a_base_model_counts_for_nothing(entries, size):
    bases = LoadedBases(CPU)
    base = bases.take(entries[0], 2 * size)
    with lora(base, LoraSpec(rank=64), seed=0):
        bases.take(entries[1], 2 * size)
        assert bases.names == ("tiny-0", "tiny-1")


def test_a_changed_entry_is_loaded_anew_and_a_damaged_one_costs_no_other(entries, tmp_path):
    bases = LoadedBases(CPU)
    other, first = bases.take(entries[1], PLENTY), bases.take(entries[0], PLENTY)
    changed = entries[0].model_copy(update={"source": entries[2].source})
    assert bases.take(changed, PLENTY).sha256 != first.sha256
    shutil.copytree(entries[0].source.path, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    damaged = changed.model_copy(update={"source": changed.source.model_copy(update={"path": tmp_path / "damaged"})})
    with pytest.raises(BaseModelUnavailableError, match="cannot be loaded"):
        bases.take(damaged, PLENTY)
    assert bases.names == ("tiny-1",) and bases.take(entries[1], PLENTY) is other
    assert bases.take(entries[0], PLENTY).sha256 == first.sha256
