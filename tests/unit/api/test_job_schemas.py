"""Hyperparameters over HTTP and the training spec say the same things."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.jobs.schemas import Hyperparameters, JobIn, Method, MethodSettings
from sgg_core.spec import GuidanceSpec, LoraSpec, OptimizationSpec, TrainingSpec

GROUPS = {"base_model", "method", "seed", "optimization"}


def test_every_field_of_the_spec_can_be_set() -> None:
    names = {field.alias or name for name, field in Hyperparameters.model_fields.items()}
    optimization = {"n_epochs" if name == "epochs" else name for name in OptimizationSpec.model_fields}
    assert names == optimization | (set(TrainingSpec.model_fields) - GROUPS)


specs = st.builds(
    TrainingSpec,
    base_model=st.just("m"),
    method=st.just("sgg"),
    seed=st.integers(0, 2**31 - 1),
    lora=st.builds(LoraSpec, rank=st.integers(1, 256)),
    guidance=st.builds(GuidanceSpec, radius=st.floats(0.01, 1), clip_z=st.none() | st.floats(1, 20)),
    optimization=st.builds(
        OptimizationSpec,
        epochs=st.integers(1, 1000) | st.just("auto"),
        batch_size=st.integers(1, 256) | st.just("auto"),
        clip_norm=st.none() | st.floats(0.1, 1000),
        max_steps=st.none() | st.integers(1, 100_000),
    ),
)


@given(specs)
def test_a_spec_survives_the_way_through_http(spec: TrainingSpec) -> None:
    method = Method(type="sgg", sgg=MethodSettings(hyperparameters=Hyperparameters.of(spec)))
    sent = JobIn.model_validate(
        {"model": "m", "training_file": "f", "method": JobIn.model_validate_json(
            JobIn(model="m", training_file="f", method=method).model_dump_json(exclude_none=False)
        ).model_dump(mode="json")["method"]}
    )  # fmt: skip
    assert sent.training_spec(spec.seed) == spec
