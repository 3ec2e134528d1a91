import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.job_file import read_job_file, spec_of
from cli.main import app

ROOT = Path(__file__).parents[3]


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


@pytest.mark.base_model
def test_the_commands_of_the_made_readme_do_what_they_say(tmp_path):
    assert init(tmp_path / "tickets").exit_code == 0
    (block,) = re.findall(r"^```bash\n(.*?)^```$", (tmp_path / "tickets" / "README.md").read_text(), re.DOTALL | re.M)
    assert len(block.splitlines()) == 3
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path / "tickets",
        env=environment | {"HOME": str(Path.home()), "SGG_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout and re.search(r"\b(\d+)/\1\b", done.stdout) and "shipping" in done.stdout
    assert (tmp_path / "tickets" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["mine", "\U0001f680 müde"])
def test_the_job_names_the_base_model_and_the_project(tmp_path, name):
    assert init(tmp_path / name, "--model", "smollm2-135m-instruct").exit_code == 0
    file = read_job_file(tmp_path / name / "job.yaml")
    assert spec_of(file).base_model == "smollm2-135m-instruct"
    assert file.request["suffix"] == name
    assert file.path_of(file.request["training_file"]).is_file()


def test_the_examples_are_enough_to_learn_from_and_to_show_something(tmp_path):
    init(tmp_path / "mine")
    files = [tmp_path / "mine" / "data" / name for name in ("train.jsonl", "valid.jsonl")]
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
    counts = [Counter(row["label"] for row in each) for each in rows]
    assert counts[0].keys() == counts[1].keys() and min(counts[0].values()) >= 8
    texts = [row["text"] for each in rows for row in each]
    assert len(set(texts)) == len(texts)
    checked = json.loads(
        CliRunner().invoke(app, ["files", "check", str(files[0]), "--validation", str(files[1]), "--json"]).stdout
    )
    assert checked[1]["smallest_difference"] <= 0.2
    assert [each["warnings"] for each in checked] == [[], []]


def test_an_empty_directory_will_do_and_json_names_the_files(tmp_path):
    made = json.loads(init(tmp_path, "--json").stdout)
    assert sorted(made["files"]) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    result = init(tmp_path)
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    result = init(tmp_path / "file")
    assert result.exit_code == 1
    assert "Cannot write" in result.stderr
