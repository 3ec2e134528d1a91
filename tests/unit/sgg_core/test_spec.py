"""The training spec: exact in JSON, closed to unknown names, bounded and immutable."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sgg_core.spec import TrainingSpec

AUTO = st.just("auto")
fractions = st.floats(0, 1)
GROUPS = {
    "task": {
        "type": st.sampled_from(["auto", "classification", "completion", "chat"]),
        "description": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        "objective": st.sampled_from(["auto", "cross_entropy", "contrast"]),
        "label_names": st.sampled_from(["auto", True, False]),
        "label_kinship": st.booleans(),
        "max_tokens": AUTO | st.integers(16, 8192),
    },
    "lora": {
        "rank": st.integers(1, 256),
        "alpha": st.floats(1e-3, 1024),
        "dropout": st.floats(0, 0.99),
        "targets": st.just("all-linear") | st.lists(st.text("abc_", min_size=1), min_size=1, max_size=4).map(tuple),
    },
    "optimization": {
        "epochs": AUTO | st.integers(1, 1000),
        "batch_size": AUTO | st.integers(1, 256),
        "balanced_batches": st.sampled_from(["auto", True, False]),
        "learning_rate": AUTO
        | st.floats(1e-12, 1)
        | st.lists(st.floats(1e-12, 1), min_size=2, max_size=10, unique=True).map(tuple),
        "learning_rate_multiplier": AUTO | st.floats(1e-12, 100),
        "warmup_fraction": st.floats(0, 0.5),
        "weight_decay": fractions,
        "clip_norm": AUTO | st.none() | st.floats(1e-12, 1000),
        "max_steps": st.none() | st.integers(1, 100_000),
        "seeds": st.integers(1, 10),
        "folds": st.none() | st.integers(2, 10),
    },
    "guidance": {
        "variant": st.sampled_from(["finite_difference", "exact", "momentum", "off"]),
        "every": st.integers(1, 100),
        "reference": st.sampled_from(["ema", "anchor", "split", "base_kl"]),
        "radius": st.floats(1e-12, 1),
        "magnitude": fractions,
        "magnitude_threshold": st.floats(0, 1e6),
        "direction": fractions,
        "alignment": fractions,
        "ramp_fraction": fractions,
        "ema_beta": st.floats(0, 0.999),
        "clip_z": st.none() | st.floats(1e-12, 20),
        "source_weight": st.sampled_from(["auto", "gated", "fixed", "cross_fitted", "equal"]),
        "source_scope": st.sampled_from(["global", "layer"]),
        "source_cap": st.floats(0, 2),
    },
    "evaluation": {
        "every_steps": AUTO | st.integers(1, 100_000),
        "patience": st.none() | st.integers(1, 1000),
        "keep": st.sampled_from(["last", "best"]),
        "baselines": AUTO | st.lists(st.sampled_from(["in_context", "plain_lora"]), max_size=2),
    },
    "checkpoint": {
        "every_steps": AUTO | st.integers(1, 100_000),
        "keep_last": st.none() | st.integers(1, 1000),
        "keep_best": st.none() | st.integers(1, 1000),
    },
    "resources": {"gpus": st.integers(1, 8), "deterministic": st.booleans()},
}
specs = st.fixed_dictionaries(
    {"base_model": st.text("abc-", min_size=1, max_size=9)},
    optional={
        "method": st.sampled_from(["sgg", "supervised"]),
        "seed": st.integers(0, 2**31 - 1),
        **{name: st.fixed_dictionaries({}, optional=fields) for name, fields in GROUPS.items()},
    },
).map(TrainingSpec.model_validate)


def test_the_strategies_here_know_every_field():
    fields = {name: set(getattr(TrainingSpec(base_model="x"), name).model_dump()) for name in GROUPS}
    assert fields == {name: set(known) for name, known in GROUPS.items()}
    assert set(TrainingSpec.model_fields) == {"base_model", "method", "seed", *GROUPS}


@given(specs)
def test_json_gives_back_the_same_spec(spec):
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TrainingSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("optimization", "batch_size"),
        ("optimization", "learning_rate"),
        ("optimization", "clip_norm"),
        ("lora", "rank"),
        ("guidance", "radius"),
        ("evaluation", "keep"),
        ("task", "max_tokens"),
    ],
)
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(group, name, value):
    with pytest.raises(ValidationError) as caught:
        TrainingSpec.model_validate({"base_model": "tiny", group: {name: value}})
    assert "true or false" in str(caught.value)
    assert TrainingSpec.model_validate({"base_model": "tiny", "task": {"label_names": value}}).task.label_names is value


def test_true_is_no_number_in_a_list_either():
    with pytest.raises(ValidationError, match="true or false"):
        TrainingSpec.model_validate({"base_model": "tiny", "optimization": {"learning_rate": [0.1, True]}})


@pytest.mark.parametrize("group", [None, *GROUPS])
def test_unknown_names_are_refused_in_every_group(group):
    fields = {"base_model": "tiny", "learning_rte": 1} if group is None else {"base_model": "tiny", group: {"rte": 1}}
    with pytest.raises(ValidationError) as caught:
        TrainingSpec.model_validate(fields)
    (error,) = caught.value.errors()
    assert error["type"] == "extra_forbidden"
    assert error["loc"] == (("learning_rte",) if group is None else (group, "rte"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimization.learning_rate", -1),
        ("optimization.learning_rate", 0),
        ("optimization.learning_rate", 1.5),
        ("optimization.learning_rate", float("nan")),
        ("optimization.learning_rate", "fast"),
        ("optimization.learning_rate_multiplier", float("inf")),
        ("optimization.epochs", 0),
        ("optimization.epochs", 1.5),
        ("optimization.batch_size", 257),
        ("optimization.warmup_fraction", 0.6),
        ("optimization.weight_decay", -0.1),
        ("optimization.clip_norm", 0),
        ("optimization.max_steps", 0),
        ("lora.rank", 0),
        ("lora.alpha", 0),
        ("lora.dropout", 1),
        ("lora.targets", []),
        ("lora.targets", "q_proj"),
        ("lora.targets", ["q" * 201]),
        ("guidance.variant", "sam"),
        ("guidance.every", 0),
        ("guidance.magnitude_threshold", -1),
        ("guidance.radius", 0),
        ("guidance.magnitude", 1.1),
        ("guidance.direction", -0.1),
        ("guidance.ema_beta", 1),
        ("guidance.clip_z", 0),
        ("guidance.source_cap", 2.1),
        ("evaluation.patience", 0),
        ("evaluation.keep", "first"),
        ("checkpoint.every_steps", 0),
        ("resources.gpus", 0),
        ("resources.gpus", 9),
        ("task.type", "regression"),
        ("task.max_tokens", 15),
        ("task.max_tokens", 8193),
        ("task.description", "x" * 2001),
        ("method", "adamw"),
        ("seed", -1),
        ("seed", 2**31),
        ("base_model", ""),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(place, value):
    group, _, name = place.rpartition(".")
    fields = {group: {name: value}} if group else {name: value}
    with pytest.raises(ValidationError) as caught:
        TrainingSpec.model_validate({"base_model": "tiny", **fields})
    for error in caught.value.errors():
        assert ".".join(map(str, error["loc"])).startswith(place)


def test_a_base_model_is_all_a_spec_needs_and_must_have():
    assert TrainingSpec(base_model="tiny").method == "sgg"
    with pytest.raises(ValidationError, match="base_model"):
        TrainingSpec.model_validate({})


def test_a_spec_cannot_be_changed():
    spec = TrainingSpec(base_model="tiny")
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        spec.optimization.learning_rate = 0.1
    assert hash(spec) == hash(TrainingSpec(base_model="tiny"))


def test_every_field_is_described_in_the_json_schema():
    schema = TrainingSpec.model_json_schema()
    for name, group in schema["$defs"].items():
        assert all("description" in field for field in group["properties"].values()), name


def test_a_spec_needs_no_torch():
    code = "import sys, sgg_core.spec, sgg_core.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
