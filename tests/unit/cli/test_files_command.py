import json

import httpx
import pytest
from typer.testing import CliRunner

from cli.main import app

GOOD = [{"text": f"text number {number}", "label": label} for label in ("up", "down") for number in range(4)]


@pytest.fixture
def write(tmp_path):
    def write_rows(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_rows


def check(*arguments):
    return CliRunner().invoke(app, ["files", "check", *arguments])


def test_a_good_file_is_summed_up(write):
    result = check(write("train.jsonl", GOOD))
    assert result.exit_code == 0
    assert "train.jsonl is good" in result.stdout
    assert "2: down, up" in result.stdout


def test_json_holds_the_same_facts(write):
    (facts,) = json.loads(check(write("train.jsonl", GOOD), "--json").stdout)
    assert (facts["kind"], facts["examples"], facts["labels"]) == ("classification", 8, ["down", "up"])


def test_one_label_only_is_refused(write):
    result = check(write("train.jsonl", GOOD[:4]))
    assert result.exit_code == 1
    assert result.stderr.startswith("error:")


def test_a_validation_file_with_a_new_label_is_refused(write):
    training = write("train.jsonl", GOOD)
    assert check(training, "--validation", write("good.jsonl", GOOD[:1])).exit_code == 0
    result = check(training, "--validation", write("bad.jsonl", [{"text": "x", "label": "sideways"}]))
    assert result.exit_code == 1
    assert "sideways" in result.stderr


def test_warnings_are_told_and_do_not_fail(write):
    result = check(write("train.jsonl", [*GOOD, GOOD[0]]))
    assert result.exit_code == 0
    assert "warning:" in result.stdout


def test_a_validation_file_is_told_what_it_can_show_and_what_training_holds_already(write):
    held_out = [{"text": f"held-out text {number}", "label": "up"} for number in range(19)] + [GOOD[2]]
    training, validation = write("train.jsonl", GOOD), write("valid.jsonl", held_out)
    shown = " ".join(check(training, "--validation", validation).stdout.split())
    assert "differences in accuracy of 30.0 % and more" in shown
    assert "line 20: The training file holds this example on line 3." in shown
    trained, held = json.loads(check(training, "--validation", validation, "--json").stdout)
    assert held["smallest_difference"] == 0.3 and len(held["warnings"]) == 1
    assert "smallest_difference" not in trained


@pytest.mark.parametrize("count", [1, 6])
def test_few_held_out_examples_are_said_to_show_nothing(write, count):
    told = check(write("train.jsonl", GOOD), "--validation", write("v.jsonl", GOOD[:count])).stdout
    assert told.count("can show") == 1
    assert "no difference in accuracy: there are too few examples" in told


def test_the_problems_of_a_bad_file_come_as_json(write):
    result = check(write("bad.jsonl", [GOOD[0], {"txet": "a", "label": "up"}]), "--json")
    assert result.exit_code == 1 and result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "invalid_training_file" and error["message"].startswith("bad.jsonl has ")
    assert [(one["line"], one["field"]) for one in error["problems"]] == [(2, "txet"), (2, "text")]


def test_what_is_wrong_with_all_files_is_told_at_once(write, tmp_path):
    training = write("train.jsonl", [GOOD[0], {"txet": "a", "label": "up"}])
    held_out, absent = write("valid.jsonl", [{"text": "a"}]), str(tmp_path / "absent.jsonl")
    told = json.loads(check(training, "--validation", held_out, "--json").stderr)["error"]
    assert [(one["file"], one["line"]) for one in told["problems"]] == [
        ("train.jsonl", 2), ("train.jsonl", 2), ("valid.jsonl", 1),
    ]  # fmt: skip
    files = ["--train", training, "--validation", held_out, "--source", write("source.jsonl", GOOD[:2])]
    out = str(tmp_path / "adapter")
    result = CliRunner().invoke(app, ["train", "-m", "tiny", *files, "--retention", absent, "--out", out])
    assert result.exit_code == 1
    for name in ("train", "valid", "absent"):
        assert f"{name}.jsonl has " in result.stderr
    one_label = write("one.jsonl", GOOD[:2])
    files = ["--train", one_label, "--source", one_label]
    result = CliRunner().invoke(app, ["train", "-m", "tiny", *files, "--out", out])
    assert result.stderr.count("All examples have the label") == 2


def test_files_are_listed_with_what_they_are_for_and_by_it(sgg_to):
    asked = []

    def answer(request):
        asked.append(request.url.params.get("purpose"))
        file = {"id": "file-1", "filename": "a.jsonl", "bytes": 9, "purpose": "fine-tune", "created_at": 0}
        return httpx.Response(200, json={"data": [] if asked[-1] == "none" else [file], "has_more": False})

    sgg = sgg_to(answer)
    header, row = sgg("files", "list").stdout.splitlines()
    assert header.split() == ["ID", "NAME", "SIZE", "PURPOSE", "CREATED"]
    assert row.split()[:5] == ["file-1", "a.jsonl", "9", "B", "fine-tune"]
    assert sgg("files", "list", "--purpose", "none").stdout == "No file has the purpose none.\n"
    assert asked == [None, "none"]
