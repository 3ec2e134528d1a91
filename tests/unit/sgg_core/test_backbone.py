"""Loading base models: never foreign code or pickles, named files and layers in errors, and adapters that come off."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from sgg_core.backbone import backward, hidden_states
from sgg_core.base_files import converted_gguf
from sgg_core.base_loading import load_base
from sgg_core.catalogue import BaseModelEntry, DirectorySource, HubSource
from sgg_core.errors import BaseModelUnavailableError, SpecError
from sgg_core.evaluation import probe_values
from sgg_core.lora_layers import linear_layers, lora
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tiny import save_tiny_base, tiny_entry


@pytest.fixture
def entry(tmp_path):
    """A tiny causal language model on disk, to be spoiled."""
    return save_tiny_base(tmp_path / "base")


def change_config(entry, **changes):
    path = entry.source.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_directory_is_loaded_frozen_in_float32_and_in_evaluation_mode(kind, tmp_path):
    base = load_base(save_tiny_base(tmp_path, kind), device=torch.device("cpu"))
    parameters = list(base.model.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not any(module.training for module in base.model.modules())
    assert base.hidden_size == 32 and base.directory == tmp_path and len(base.sha256) == 64
    assert getattr(base.model, "pooler", None) is None
    assert base.tokenizer.pad_token_id is not None


def test_the_hash_is_of_the_weights(tmp_path):
    hashes = [
        load_base(save_tiny_base(tmp_path / name, seed=seed)).sha256 for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_model_that_brings_its_own_code_is_refused_before_anything_runs(entry, tmp_path):
    change_config(entry, auto_map={"AutoModelForCausalLM": "evil.EvilModel", "AutoConfig": "evil.EvilConfig"})
    proof = tmp_path / "it-ran"
    evil = f"open({str(proof)!r}, 'w')\nclass EvilModel: pass\nEvilConfig = EvilModel\n"
    (entry.source.path / "evil.py").write_text(evil)
    with pytest.raises(BaseModelUnavailableError, match=r"'tiny-causal' brings code of its own \(auto_map\)"):
        load_base(entry)
    assert not proof.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_from_elsewhere_is_refused(key, entry):
    change_config(entry, **{key: "someone/kernel@main"})
    with pytest.raises(BaseModelUnavailableError, match=f"code of its own.*{key}"):
        load_base(entry)


def test_a_tokenizer_that_brings_its_own_code_is_not_run(entry, tmp_path):
    path = entry.source.path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}))
    proof = tmp_path / "it-ran"
    (entry.source.path / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    with suppress(BaseModelUnavailableError):
        load_base(entry)
    assert not proof.exists()


def test_an_architecture_that_transformers_does_not_know_is_refused(entry):
    change_config(entry, model_type="martian", architectures=["MartianForCausalLM"])
    with pytest.raises(BaseModelUnavailableError, match=r"'tiny-causal' cannot be loaded .*martian"):
        load_base(entry)


def test_an_encoder_is_no_causal_language_model(tmp_path):
    save_tiny_base(tmp_path, "encoder")
    with pytest.raises(BaseModelUnavailableError, match="lack 6 tensor"):
        load_base(tiny_entry(tmp_path, "causal"))


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_a_model_that_changes_its_logits_is_refused_by_the_settings_name(key, entry):
    change_config(entry, **{key: 30.0})
    with pytest.raises(BaseModelUnavailableError, match=f"sets {key}, which is not supported"):
        load_base(entry)
    change_config(entry, **{key: 1.0})
    load_base(entry)


def written(directory, model):
    """A random model of another family on disk, with the tiny base's tokenizer, and its entry."""
    entry = save_tiny_base(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory)
    return entry


SHAPE = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def sliding(window, **more):
    special = {"eos_token_id": 256, "bos_token_id": 257, "pad_token_id": 258}
    config = MistralConfig(
        **SHAPE, **special, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=1024,
        sliding_window=window, **more,
    )  # fmt: skip
    return MistralForCausalLM(config)


def test_a_model_whose_layers_look_less_far_than_its_entry_says_is_refused_with_the_number(tmp_path):
    entry = written(tmp_path, sliding(64))
    with pytest.raises(
        BaseModelUnavailableError, match="look back only 64 tokens, but its entry claims a context of 1,024"
    ):
        load_base(entry)
    load_base(entry.model_copy(update={"context_tokens": 64}))
    written(tmp_path, sliding(None))
    load_base(entry)


def test_within_its_window_a_kept_prefix_changes_no_answer(tmp_path):
    """Rows that follow a kept text may be longer together than the window."""
    entry = written(tmp_path, sliding(160)).model_copy(update={"context_tokens": 160})
    base = load_base(entry, device=torch.device("cpu"))
    task = LabelWords(base, ("bad", "good"), "", 160)
    texts = [f"{number} it was {'very ' * 3}fine" for number in range(6)]
    items = task.encode([ClassificationExample(text, "good") for text in texts])
    alone = probe_values(task, items)
    task.keep_prefix()
    torch.testing.assert_close(probe_values(task, items), alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt_neo", "mpt", "mamba", "lfm2"])
def test_models_in_which_examples_of_one_row_would_see_each_other_are_refused(tmp_path, family):
    models = {
        "gpt_neo": lambda: GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=260, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
            )
        ),
        "mpt": lambda: MptForCausalLM(MptConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=2)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=2)),
        "lfm2": lambda: Lfm2ForCausalLM(
            Lfm2Config(**SHAPE, num_key_value_heads=2, intermediate_size=64, layer_types=["conv", "full_attention"])
        ),
    }
    entry = written(tmp_path, models[family]())
    with pytest.raises(BaseModelUnavailableError, match=r"in one row|into one row") as caught:
        load_base(entry)
    assert caught.value.remedy


def test_pickled_weights_are_refused_and_never_unpickled(entry, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "it-ran"), "w")

    (entry.source.path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, entry.source.path / "pytorch_model.bin")
    with pytest.raises(BaseModelUnavailableError, match=r"model\.safetensors"):
        load_base(entry)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name, entry):
    (entry.source.path / name).unlink()
    with pytest.raises(BaseModelUnavailableError, match=name if name != "tokenizer.json" else "a tokenizer") as caught:
        load_base(entry)
    assert "'tiny-causal'" in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_an_error_that_names_the_base_model(name, entry):
    path = entry.source.path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BaseModelUnavailableError, match="'tiny-causal'"):
        load_base(entry)


def test_weights_that_lack_a_tensor_are_refused(entry):
    path = entry.source.path / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelUnavailableError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(entry)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    nowhere = BaseModelEntry(name="gone", kind="causal", source=DirectorySource(path=tmp_path / "nowhere"))
    with pytest.raises(BaseModelUnavailableError, match=r"'gone': .*nowhere has no config\.json"):
        load_base(nowhere)


def test_a_hub_repository_that_is_not_here_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = HubSource(repo_id="owner/name", revision="0" * 40)
    with pytest.raises(BaseModelUnavailableError, match=f"hf download owner/name --revision {'0' * 40}"):
        load_base(BaseModelEntry(name="far", kind="causal", source=source))


def test_a_damaged_gguf_is_an_error_and_leaves_no_litter_in_the_cache(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(BaseModelUnavailableError, match=r"'broken': .*broken\.gguf cannot be read"):
        converted_gguf("broken", broken, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["broken.lock"]


def test_all_linear_layers_but_the_output_get_an_adapter(causal, encoder):
    per_layer = {"causal": 7, "encoder": 6}
    for base in (causal, encoder):
        names = linear_layers(base)
        assert len(names) == 2 * per_layer[base.entry.kind]
        assert not any("lm_head" in name or "pooler" in name for name in names)
        with lora(base, LoraSpec(rank=2), seed=0) as adapted:
            trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
        assert len(trained) == 2 * len(names)


@pytest.mark.parametrize(("name", "targets"), [("causal", ("q_proj", "v_proj")), ("encoder", ("query", "dense"))])
def test_only_the_named_layers_get_an_adapter(name, targets, request):
    base = request.getfixturevalue(name)
    with lora(base, LoraSpec(rank=2, targets=targets), seed=0) as adapted:
        trained = {n.split(".lora_")[0].rsplit(".", 1)[1] for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained == set(targets)


def test_unknown_targets_are_named_with_the_known_ones(base):
    known = {
        "causal": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "encoder": ["dense", "key", "query", "value"],
    }[base.entry.kind]
    with pytest.raises(SpecError) as caught, lora(base, LoraSpec(targets=("nope", known[0], "lm_head")), seed=0):
        pass
    assert str(caught.value) == f"lora.targets: no linear layer is named lm_head, nope. Known: {known}."


def test_an_adapter_starts_as_no_change_from_its_seed_and_comes_off_again(base):
    ids = torch.arange(10)[None]
    before = base.model(input_ids=ids)[0]
    starts = []
    for seed in (1, 1, 2):
        with lora(base, LoraSpec(rank=2), seed=seed) as adapted:
            assert torch.equal(base.model(input_ids=ids)[0], before)
            parameters = dict(adapted.named_parameters())
            starts.append(torch.cat([p.detach().flatten() for n, p in parameters.items() if ".lora_A." in n]))
            assert not any(p.any() for n, p in parameters.items() if ".lora_B." in n)
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    with pytest.raises(KeyError), lora(base, LoraSpec(rank=2), seed=0) as adapted:
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.ones_(parameter)
        assert not torch.equal(base.model(input_ids=ids)[0], before)
        raise KeyError
    assert torch.equal(base.model(input_ids=ids)[0], before)
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_only_passes_that_are_to_have_a_gradient_go_to_a_rendezvous(encoder):
    met = []

    class Elsewhere:
        def states(self, ids, mask, positions, types):
            met.append("states")
            return torch.ones(*ids.shape, 32, requires_grad=True)

        def backward(self):
            met.append("backward")

    base = replace(encoder, rendezvous=Elsewhere())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        alone = hidden_states(base, ids, torch.ones_like(ids))
        assert torch.equal(alone, hidden_states(encoder, ids, torch.ones_like(ids)))
    assert met == []
    states = hidden_states(base, ids, torch.ones_like(ids))
    backward(base, states.sum())
    assert met == ["states", "backward"] and torch.equal(states.grad, torch.ones_like(states))
