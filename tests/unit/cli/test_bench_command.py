"""`sgg bench` from the shell: measured on a tiny base model, gone on with, and shown as a table."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from cli.main import app
from sgg_core.catalogue import Catalogue
from sgg_core.tiny import save_tiny_base


@pytest.fixture
def sgg(monkeypatch, tmp_path):
    data = tmp_path / "data"
    monkeypatch.setenv("SGG_DATA_DIR", str(data))
    data.mkdir()
    Catalogue.load(data).add(save_tiny_base(tmp_path / "base", "encoder"))
    return lambda *arguments: CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "weather"
    root.mkdir()
    rows = [{"text": f"{word} {n}", "label": word} for word in ("sunny", "rainy") for n in range(6)]
    for name in ("train", "test"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_cells_are_measured_once_told_and_tabled(sgg, folder, tmp_path):
    csv = tmp_path / "results.csv"
    command = ("accuracy", csv, "--task", folder, "-m", "tiny-encoder", "--shots", "2", "--methods")
    first = sgg(*command, "zero_shot,linear_probe", "--seeds", 2)
    assert first.exit_code == 0, first.output
    assert "4 of 4 (0 min left): weather, tiny-encoder" in first.output
    again = sgg(*command, "zero_shot,linear_probe", "--seeds", 2, "--json")
    assert (again.exit_code, again.output) == (0, "")
    shown = sgg("table", csv, "--baseline", "linear_probe")
    assert shown.exit_code == 0
    assert "### weather, tiny-encoder, 2 examples a label" in shown.output
    narrow = sgg("table", csv, "--methods", "zero_shot", "--tasks", "weather", "--seeds", 1, "--json")
    assert [(row["method"], row["seed"]) for row in map(json.loads, narrow.output.splitlines())] == [("zero_shot", 0)]
    unknown = sgg("table", csv, "--tasks", "wether")
    assert unknown.exit_code == 1 and "There are weather." in unknown.output


def test_cells_that_are_measured_again_are_told(sgg, folder, tmp_path):
    csv = tmp_path / "results.csv"
    command = ("accuracy", csv, "--task", folder, "-m", "tiny-encoder", "--shots", "2", "--methods", "linear_probe")
    assert sgg(*command, "--seeds", 2, "--test-items", 4).exit_code == 0
    again = sgg(*command, "--seeds", 2, "--test-items", 5)
    assert again.exit_code == 0, again.output
    assert "Measured again, of the cells in" in again.output and "2 with fewer test items." in again.output
    told = sgg(*command, "--seeds", 1, "--test-items", 6, "--json")
    assert "1 with fewer test items." in told.stderr
    assert [json.loads(line)["test_items"] for line in told.stdout.splitlines()] == [6]


def test_two_tasks_of_one_name_are_refused(sgg, folder, tmp_path):
    other = tmp_path / "elsewhere" / "weather"
    shutil.copytree(folder, other)
    result = sgg("accuracy", tmp_path / "r.csv", "--task", folder, "--pair", f"{other}:{folder}", "-m", "tiny-encoder")
    assert result.exit_code == 2
    assert "Two tasks are called 'weather'" in result.output and "rename one of them" in result.output
    assert not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("accuracy", "r.csv"), "Give --task or --pair, and --model"),
        (("accuracy", "r.csv", "--pair", "one"), "Write TARGET:SOURCE"),
        (("accuracy", "r.csv", "--task", "x", "-m", "tiny-encoder", "--shots", "few"), "Write --shots"),
        (("throughput", "-m", "tiny-encoder", "--jobs", "1;2"), "Write --jobs"),
        (("throughput", "-m", "tiny-encoder", "--jobs", "0,2"), "holds a number below 1"),
    ],
)
def test_usage_errors_say_what_to_write(sgg, arguments, said):
    result = sgg(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_an_unknown_method_and_an_empty_file_are_said(sgg, folder, tmp_path):
    result = sgg("accuracy", tmp_path / "r.csv", "--task", folder, "-m", "tiny-encoder", "--methods", "sggg")
    assert result.exit_code == 1 and "There is no method 'sggg'" in result.output
    assert "Run `sgg bench accuracy` first" in sgg("table", tmp_path / "none.csv").output


def test_throughput_is_told_as_lines_of_json(sgg, folder):
    command = ("throughput", "-m", "tiny-encoder", "--train", folder / "train.jsonl", "--jobs", "2")
    result = sgg(*command, "--rounds", 1, "--steps", 1, "--json")
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(text) for text in result.stdout.splitlines()]
    assert "round 1 of 1" in result.stderr
    assert line["jobs"] == 2 and line["jobs_an_hour"] > 0


def test_throughput_is_a_table_under_its_machine_and_a_plot(sgg, folder, tmp_path):
    command = ("throughput", "-m", "tiny-encoder", "--train", folder / "train.jsonl", "--jobs", "2,1")
    result = sgg(*command, "--rounds", 1, "--steps", 1, "--plot", tmp_path / "plots" / "packs.png")
    assert result.exit_code == 0, result.output
    assert result.output.index("cores of") < result.output.index("| jobs |")
    assert (tmp_path / "plots" / "packs.png").stat().st_size > 1000


def test_waiting_times_are_those_of_real_servers_and_a_loaded_base_model_is_not_loaded_again(sgg, folder, tmp_path):
    Catalogue.load(tmp_path / "data").add(save_tiny_base(tmp_path / "other"))
    models = ("-m", "tiny-encoder", "-m", "tiny-causal")
    command = ("start", *models, "--train", folder / "train.jsonl", "--servers", 1, "--jobs", 1, "--steps", 1)
    result = sgg(*command, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(text) for text in result.output.splitlines()]
    jobs = [line for line in lines if line["type"] == "job"]
    assert [(job["case"], job["base_model"]) for job in jobs] == [
        ("cold", "tiny-encoder"),
        ("warm", "tiny-encoder"),
        ("another", "tiny-causal"),
        ("in turns", "tiny-encoder"),
        ("in turns", "tiny-causal"),
    ]
    assert all(0 < job["answer"] < job["training"] <= job["first_step"] < job["adapter"] for job in jobs)
    (start,) = [line for line in lines if line["type"] == "start"]
    assert 0 < start["answers"] <= start["ready"] < start["trainer"]
    assert [line["base_model"] for line in lines if line["type"] == "load"] == ["tiny-encoder", "tiny-causal"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"start.jsonl", "start.png"}


@pytest.mark.parametrize("content", [None, "{", '{"pack": 4}'])
def test_speeds_that_cannot_be_read_are_named(sgg, tmp_path, content):
    path = tmp_path / "speeds.jsonl"
    if content is not None:
        path.write_text(content)
    result = sgg("cluster", "--speeds", path)
    assert result.exit_code == 2, result.output
    assert "speeds.jsonl cannot be read" in result.output and "sgg bench throughput --json" in result.output


def test_base_models_are_those_of_the_catalogues_own_directory(sgg, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SGG_CATALOGUE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path / "other"))
    file = ("--train", folder / "train.jsonl")
    accuracy = ("accuracy", tmp_path / "r.csv", "--task", folder)
    for command in (accuracy, ("overhead", *file), ("throughput", *file), ("peers", *file)):
        result = sgg(*command, "-m", "none")
        assert result.exit_code == 1 and "tiny-encoder" in result.output, command  # among those that are known


@pytest.mark.parametrize("command", ["start", "peers"])
def test_a_training_file_that_is_not_there_is_named(sgg, tmp_path, command):
    result = sgg(command, "--train", tmp_path / "none.jsonl")
    assert result.exit_code == 2 and "--train" in result.output and "none.jsonl" in result.output
