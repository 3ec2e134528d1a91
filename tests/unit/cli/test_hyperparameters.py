import json

import pytest

from cli.errors import CliError
from cli.hyperparameters import build_spec, parse_settings, setting_names, to_request
from sgg_core.spec import TrainingSpec


def test_every_leaf_of_the_spec_can_be_set_and_nothing_else():
    defaults = TrainingSpec(base_model="any").model_dump(mode="json")
    leaves = {f"{group}.{name}" for group, values in defaults.items() if isinstance(values, dict) for name in values}
    assert set(setting_names()) == leaves


def test_setting_every_leaf_to_its_default_changes_nothing():
    plain = TrainingSpec(base_model="any")
    defaults = plain.model_dump(mode="json")
    assignments = [
        f"{name}={json.dumps(defaults[name.partition('.')[0]][name.partition('.')[2]])}" for name in setting_names()
    ]
    assert build_spec("any", "sgg", 0, parse_settings(assignments)) == plain


def test_values_are_json_or_else_strings():
    settings = parse_settings(
        ["guidance.radius=0.1", "optimization.epochs=auto", 'lora.targets=["q_proj"]', "guidance.clip_z=none"]
    )
    assert settings == {
        "guidance": {"radius": 0.1, "clip_z": None},
        "optimization": {"epochs": "auto"},
        "lora": {"targets": ["q_proj"]},
    }


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("guidance.raduis=1", "guidance.radius"),
        ("radius=1", "guidance.radius"),
        ("optimisation.epochs=1", "optimization.epochs"),
        ("epochz=1", "optimization.epochs"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_one_that_was_meant(mistyped, meant):
    with pytest.raises(CliError, match=f"Did you mean '{meant}'") as caught:
        parse_settings([mistyped])
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_is_answered_with_all_names():
    with pytest.raises(CliError, match=r"Known settings: .*checkpoint\.every_steps"):
        parse_settings(["wwwwwwww=1"])


def test_names_with_an_option_of_their_own_are_sent_there():
    with pytest.raises(CliError, match="Use --seed"):
        parse_settings(["seed=3"])


@pytest.mark.parametrize("assignment", ["guidance.radius", "guidance.radius=1=", "lora.rank=0", "lora.rank=8.5"])
def test_values_that_are_missing_or_out_of_bounds_are_refused_by_name(assignment):
    with pytest.raises(CliError, match=assignment.partition("=")[0]):
        build_spec("any", "sgg", 0, parse_settings([assignment]))


def test_a_setting_given_twice_is_refused():
    with pytest.raises(CliError, match="twice"):
        parse_settings(["lora.rank=4", "lora.rank=8"])


def test_all_settings_that_cannot_be_read_are_named_at_once():
    with pytest.raises(CliError) as caught:
        parse_settings(["lora.rnk=1", "lora.rank=4", "epoch=1", "lora.alpha", "lora.rank=8"])
    assert caught.value.exit_code == 2
    assert caught.value.message.splitlines() == [
        "There is no setting 'lora.rnk'. Did you mean 'lora.rank'?",
        "There is no setting 'epoch'. Did you mean 'optimization.epochs'?",
        "--set 'lora.alpha' has no value. Write --set name=value.",
        "--set lora.rank is given twice. Keep one of them.",
    ]


def test_all_bad_values_are_named_in_one_sentence():
    with pytest.raises(CliError) as caught:
        build_spec("any", "sgg", 0, parse_settings(["lora.rank=0", "optimization.learning_rate=-1"]))
    assert "lora.rank" in caught.value.message
    assert caught.value.message.count("optimization.learning_rate") == 1


def test_the_request_has_optimization_flat_under_openais_names_and_other_groups_nested():
    settings = parse_settings(["optimization.epochs=4", "optimization.max_steps=9", "guidance.radius=0.1"])
    assert to_request(settings) == {"n_epochs": 4, "max_steps": 9, "guidance": {"radius": 0.1}}


def test_what_is_wrong_with_a_list_of_learning_rates_is_told_of_the_list_alone():
    with pytest.raises(CliError) as caught:
        build_spec("any", "sgg", 0, parse_settings(["optimization.learning_rate=[0.001, 0.001]"]))
    assert caught.value.message == "optimization.learning_rate: Value error, a learning rate is listed twice."
