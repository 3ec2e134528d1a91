import json

import pytest

from api.jobs.schemas import JobIn, Method, MethodSettings
from cli import job_file
from cli.errors import ApiError, CliError
from cli.job_file import read_job_file, spec_of

JOB = """\
model: all-minilm-l6-v2
training_file: data/train.jsonl
method:
  type: sgg
  sgg:
    hyperparameters:
      n_epochs: 3
      learning_rate: 5e-4
      guidance: {radius: 0.05}
      resources: {gpus: 2}
"""


@pytest.fixture
def written(tmp_path):
    def write(text, name="job.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_the_names_are_exactly_those_of_the_api():
    assert set(job_file.REQUEST) == set(JobIn.model_fields) - {"integrations"}  # which must be empty
    assert set(job_file.SETTINGS) == set(MethodSettings.model_fields)
    assert {"type", *job_file.METHODS} == set(Method.model_fields)
    groups = MethodSettings.model_fields["hyperparameters"].annotation.model_fields
    assert set(job_file.GROUPS) <= set(groups)


def test_yaml_and_json_say_the_same_and_what_the_api_makes_of_it(written):
    file = read_job_file(written(JOB))
    as_json = read_job_file(written(json.dumps(file.request, indent=1), "job.json"))
    assert as_json.request == file.request
    assert (
        file.request["method"]["sgg"]["hyperparameters"]["learning_rate"] == 0.0005
    )  # not the text that YAML 1.1 reads
    assert spec_of(file) == JobIn.model_validate(file.request).training_spec(seed=0)


def test_a_job_without_a_method_has_its_hyperparameters_at_the_top_as_in_the_api(written):
    file = read_job_file(written("model: m\ntraining_file: t\nseed: 9\nhyperparameters: {n_epochs: 2}\n"))
    assert spec_of(file) == JobIn.model_validate(file.request).training_spec(seed=9)


def test_paths_are_beside_the_file(written, tmp_path):
    assert read_job_file(written(JOB)).path_of("data/train.jsonl") == tmp_path / "data" / "train.jsonl"


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "reason"),
    [
        ("n_epochs: 3", "n_epoch: 3", 7, "method.sgg.hyperparameters.n_epoch", "Did you mean 'n_epochs'?"),
        ("n_epochs: 3", "n_epochs: none", 7, "method.sgg.hyperparameters.n_epochs", "integer"),
        ("{radius: 0.05}", "{raduis: 1}", 9, "method.sgg.hyperparameters.guidance.raduis", "Did you mean 'radius'?"),
        (
            "{radius: 0.05}",
            "\n        radius: 7",
            10,
            "method.sgg.hyperparameters.guidance.radius",
            "less than or equal",
        ),
        ("training_file:", "train_file:", 2, "train_file", "Did you mean 'training_file'?"),
        ("type: sgg", "type: dpo", 4, "method.type", "sgg, supervised"),
        ("  sgg:", "  sgd:", 5, "method.sgd", "Did you mean 'sgg'?"),
        ("  type: sgg\n", "  type: sgg\n  type: sgg\n", 5, None, "twice"),
        ("model: all", "model: [", 2, None, "expected"),
        (JOB, "just words", 1, None, "holds no fields"),
        ("method:", "validation_file: 5\nmethod:", 3, "validation_file", "must be a string"),
        ("method:", "validation_file: [a, b]\nmethod:", 3, "validation_file", "must be a string"),
        ("method:", "hyperparameters: 5\nmethod:", 3, "hyperparameters", "must hold settings"),
        ("method:", "7: a\nmethod:", 3, "7", "Known are"),
        ("  sgg:\n", "  sgg:\n    sources: data.jsonl\n", 6, "method.sgg.sources", "must be a list"),
        ("  sgg:\n", "  sgg:\n    sources: [a.jsonl, 5]\n", 6, "method.sgg.sources", "must be a list"),
        ("  sgg:\n", "  sgg:\n    retention_file: 5\n", 6, "method.sgg.retention_file", "must be a string"),
        ("  sgg:\n", "  sgg:\n    start_from: {a: b}\n", 6, "method.sgg.start_from", "must be a string"),
    ],
)
def test_an_error_names_line_and_field(written, old, new, line, field, reason):
    assert old in JOB
    path = written(JOB.replace(old, new, 1))
    with pytest.raises(CliError) as raised:
        read_job_file(path)
    told = str(raised.value)
    assert raised.value.exit_code == 2
    assert f"{path}, line {line}" in told and reason in told, told
    assert field is None or f"field {field}:" in told, told


def test_all_errors_are_told_at_once(written):
    with pytest.raises(CliError) as raised:
        read_job_file(written(JOB.replace("model:", "modle:").replace("suffix", "x").replace("type: sgg", "type: 3")))
    told = str(raised.value)
    assert "field modle" in told and "field method.type" in told and "field model:" in told


def test_a_field_without_a_value_is_as_if_it_were_not_there(written):
    empty = "method:\n  type: sgg\n  sgg:\n    sources:\n    start_from:\n    retention_file: null\n"
    file = read_job_file(written(f"model: m\ntraining_file: t\nvalidation_file:\n{empty}"))
    assert spec_of(file).method == "sgg"


def test_what_the_server_refuses_is_told_with_its_line_too(written):
    file = read_job_file(written(JOB))
    problems = [
        {"param": "training_file", "message": "There is no such file."},
        {"param": "method.sgg.hyperparameters.lora.rank", "message": "Too high."},
    ]
    told = str(file.explained(ApiError(400, "invalid_value", "two problems", problems=problems)))
    assert "line 2, field training_file: There is no such file." in told
    assert "line 6, field method.sgg.hyperparameters.lora.rank: Too high." in told  # the line of what should hold it
    other = ApiError(429, "insufficient_quota", "Too many jobs wait.")
    assert file.explained(other) is other


def test_json_may_have_tabs_and_any_character(written):
    given = {"model": "m", "training_file": "train.jsonl", "metadata": {"owner": "team \U0001f680"}}
    found = read_job_file(written(json.dumps(given, indent="\t"), "job.json"))
    assert found.request["metadata"] == {"owner": "team \U0001f680"}
    with pytest.raises(CliError, match="line 3: the field model occurs twice"):
        read_job_file(written('{\n\t"model": "m",\n\t"model": "n"}', "twice.json"))
