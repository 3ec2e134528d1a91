"""What anybody may send as an adapter file: only plain LoRA weights pass, and nothing of the rest is ever loaded."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.adapter_file import MAX_HEADER_BYTES, AdapterMetadata, facts_of, pack, read_facts
from sgg_core.errors import StartingPointError

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def file_of(tensors, metadata=None, data=None):
    """A safetensors file of zeros, from name -> shape or (shape, dtype)."""
    header, at = {}, 0
    for name, shape in tensors.items():
        shape, dtype = shape if isinstance(shape, tuple) else (shape, "F32")
        length = {"F32": 4, "F16": 2, "I64": 8}[dtype]
        for extent in shape:
            length *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + length]}
        at += length
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + (b"\0" * at if data is None else data)


PLAIN = {f"{LAYER}.lora_A.weight": [4, 32], f"{LAYER}.lora_B.weight": [32, 4]}


def judge(content):
    return read_facts(io.BytesIO(content), len(content), "some.safetensors")


def test_a_plain_adapter_tells_its_rank_targets_and_metadata():
    metadata = AdapterMetadata(alpha=16.0, labels=("a", "b"))
    facts = judge(file_of(PLAIN | {"head.weight": [2, 32], "head.bias": [2]}, metadata.for_file()))
    assert (facts.rank, facts.targets, facts.layers, facts.metadata) == (4, ("q_proj",), 1, metadata)
    assert facts.lora() == {"rank": 4, "targets": ("q_proj",), "alpha": 16.0}
    assert judge(file_of(PLAIN)).lora() == {"rank": 4, "targets": ("q_proj",)}


def zipped():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("adapter_model.safetensors", file_of(PLAIN))
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a usable safetensors file"),
        (pickle.dumps({"lora_A": 1}), "not a usable safetensors file"),
        (zipped(), "not a usable safetensors file"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1), "at most 4,194,304"),
        ((8).to_bytes(8, "little") + b"[1, 2]  ", "not a usable safetensors file"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not a usable safetensors file"),
        ((20).to_bytes(8, "little") + b'{"a": {}, "a": {}}  ', "twice"),
        (file_of({}), "no LoRA weight"),
        (file_of({f"{LAYER}.lora_A.weight": [4, 32]}), "only one of"),
        (file_of(PLAIN | {f"{LAYER}.lora_magnitude_vector.weight": [32]}), "is not a LoRA weight"),
        (file_of(PLAIN | {"base_model.model.lm_head.weight": [3, 3]}), "is not a LoRA weight"),
        (
            file_of(PLAIN | {f"{LAYER}x.lora_A.weight": [2, 3], f"{LAYER}x.lora_B.weight": [3, 2]}),
            r"the ranks \[2, 4\]",
        ),
        (
            file_of({f"{LAYER}{n}.lora_{side}.weight": [1, 1] for n in range(65) for side in "AB"}),
            "65 different names; at most 64",
        ),
        (file_of({f"{LAYER}.lora_A.weight": [300, 3], f"{LAYER}.lora_B.weight": [3, 300]}), "from 1 to 256"),
        (file_of({f"{LAYER}.lora_A.weight": [4], f"{LAYER}.lora_B.weight": [4]}), "not a matrix"),
        (file_of(PLAIN | {"head.weight": ([2, 2], "I64")}), "type 'I64'"),
        (file_of(PLAIN, data=b"\0" * 10), "10 bytes of data"),
        (file_of(PLAIN | {"head.bias": [0]}), "has the shape"),
        (file_of(PLAIN | {"head.bias": [1] * 9}), "has the shape"),
        (file_of(PLAIN, metadata={"sgg": '{"alpha": -1}'}), "metadata"),
        (file_of(PLAIN, metadata={"sgg": 3}), "values that are not strings"),
        (file_of({f"{LAYER}\ud800.lora_{side}.weight": [1, 1] for side in "AB"}), "half of a surrogate pair"),
        (file_of({f"{LAYER}\0.lora_{side}.weight": [1, 1] for side in "AB"}), "holds a NUL"),
        (file_of(PLAIN, metadata={"about": "\0"}), "holds a NUL"),
        (file_of(PLAIN, metadata={"sgg": '{"labels": ["\\ud800"]}'}), "metadata"),
        (file_of(PLAIN, metadata={"sgg": '{"labels": ["\\u0000"]}'}), "metadata"),
        (
            file_of(PLAIN, metadata=AdapterMetadata(labels=("a",) * 1_001).for_file()),
            "1,001 labels; the limit is 1,000",
        ),
        (file_of(PLAIN, metadata=AdapterMetadata(labels=("a" * 201,)).for_file()), "201 characters; the limit is 200"),
        (file_of(PLAIN, metadata=AdapterMetadata(base_model_sha256="f" * 65).for_file()), "longer than 64"),
        (
            file_of({f"base_model.model.{'q' * 201}.lora_{side}.weight": [1, 1] for side in "AB"}),
            "201 characters; the limit is 200",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "file",
)
def test_anything_else_is_refused_in_words(content, told):
    with pytest.raises(StartingPointError, match=told) as caught:
        judge(content)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{LAYER}{'x' * 10_000}.lora_A.weight": [4, 32]},
        {f"{LAYER}{'x' * 10_000}.lora_A.weight": [4]},
        {f"{LAYER}{n}.lora_{side}.weight": [n, 1] if side == "A" else [1, n] for n in range(1, 1_000) for side in "AB"},
        {"x" * 10_000: [4]},
    ],
)
def test_what_is_told_of_a_refused_file_is_short(tensors):
    for content in (file_of(tensors), file_of(PLAIN, metadata={"sgg": json.dumps({"labels": [1] * 10_000})})):
        with pytest.raises(StartingPointError) as caught:
            judge(content)
        assert len(caught.value.message) < 700


def test_as_much_as_data_files_may_hold_is_taken(tmp_path):
    metadata = AdapterMetadata(labels=tuple(f"{number:0200}" for number in range(1_000)), base_model_sha256="f" * 64)
    layers = {f"base_model.model.{'q' * 200}.lora_{side}.weight": [1, 1] for side in "AB"}
    facts = judge(file_of(layers, metadata.for_file()))
    assert (facts.metadata, facts.targets) == (metadata, ("q" * 200,))
    (tmp_path / "adapter_model.safetensors").write_bytes(file_of(PLAIN))
    (tmp_path / "sgg.json").write_text(json.dumps({"labels": ["a" * 201]}))
    with pytest.raises(StartingPointError, match="the limit is 200"):
        facts_of(tmp_path)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_no_bytes_whatever_raise_anything_else(noise, position, byte):
    good = bytearray(file_of(PLAIN))
    good[min(position, len(good) - 1)] = byte
    for content in (noise, bytes(good), bytes(good[:position])):
        with contextlib.suppress(StartingPointError):
            judge(content)


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"peft_type": "LORA", "use_dora": True},
        {"peft_type": "LORA", "use_rslora": True},
        {"peft_type": "LORA", "modules_to_save": ["lm_head"]},
        {"peft_type": "LORA", "rank_pattern": {"q_proj": 3}},
        {"peft_type": "LORA", "bias": "all"},
        {"peft_type": "LORA", "init_lora_weights": "pissa"},
    ],
)
def test_adapters_of_other_kinds_are_refused_by_name(tmp_path, config):
    (tmp_path / "adapter_model.safetensors").write_bytes(file_of(PLAIN))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for read in (facts_of, lambda directory: pack(directory, tmp_path / "packed")):
        with pytest.raises(StartingPointError, match="only plain LoRA"):
            read(tmp_path)


def test_packing_keeps_weights_head_and_what_is_known_of_them(tmp_path):
    from safetensors import safe_open

    (tmp_path / "adapter_model.safetensors").write_bytes(file_of(PLAIN, data=bytes(range(256)) * 4))
    (tmp_path / "head.safetensors").write_bytes(file_of({"weight": [2, 32], "bias": [2]}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, "bias": "none"}))
    (tmp_path / "sgg.json").write_text(json.dumps({"labels": ["a", "b"], "base_model_sha256": "f" * 64}))
    facts = pack(tmp_path, tmp_path / "packed.safetensors")
    assert facts.metadata == AdapterMetadata(alpha=8.0, labels=("a", "b"), base_model_sha256="f" * 64)
    assert facts_of(tmp_path / "packed.safetensors") == facts == facts_of(tmp_path)
    with (
        safe_open(tmp_path / "packed.safetensors", "np") as packed,
        safe_open(tmp_path / "adapter_model.safetensors", "np") as plain,
    ):
        assert set(packed.keys()) == {*plain.keys(), "head.weight", "head.bias"}
        for name in plain.keys():  # noqa: SIM118 (not a dict)
            assert packed.get_tensor(name).tobytes() == plain.get_tensor(name).tobytes()


def test_judging_a_file_loads_no_torch():
    import subprocess

    program = "import sys, sgg_core.adapter_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
