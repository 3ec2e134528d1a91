"""Commands with several arguments: what failed is told, and the others are done."""

import json

import httpx
import pytest

ROW = '{"text": "a", "label": "x"}\n'


def refused(message):
    return httpx.Response(400, json={"error": {"message": message, "code": "invalid", "param": "file", "type": "x"}})


def deleting(request):
    name = request.url.path.rpartition("/")[2]
    return refused(f"{name} is in use.") if "bad" in name else httpx.Response(200, json={"id": name, "deleted": True})


def storing(request):
    body = request.read().decode()
    if "broken" in body:
        return refused("It is broken.")
    name = body.partition('filename="')[2].partition('"')[0]
    warning = {"line": 3, "field": None, "reason": "It is odd.", "remedy": "Look."}
    found = {"kind": "classification", "examples": 8, "labels": ["x", "y"], "warnings": [warning]}
    return httpx.Response(200, json={"id": f"file-{name}", "filename": name, "bytes": 2000, "sgg": found})


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / name for name in ("one.jsonl", "two.jsonl", "three.jsonl")]
    for path in made:
        path.write_text("broken" if path.name == "two.jsonl" else ROW)
    return made


@pytest.mark.parametrize("what", ["files", "jobs", "models"])
def test_a_deletion_that_fails_does_not_stop_the_others(sgg_to, what):
    result = sgg_to(deleting)(what, "delete", "good-1", "bad-2", "good-3")
    assert result.exit_code == 1
    assert result.stdout == "Deleted good-1.\nDeleted good-3.\n"
    assert result.stderr == "error: bad-2 is in use.\n"
    assert sgg_to(deleting)(what, "delete", "good-1", "good-3").exit_code == 0


@pytest.mark.parametrize("name", ["ft:tiny:a#b", "ft:tiny:a?b", "owner/name"])
def test_the_model_of_this_very_name_is_deleted(sgg_to, name):
    asked = []

    def answer(request):
        asked.append(request.url.path)
        return httpx.Response(200, json={"id": name, "deleted": True})

    assert sgg_to(answer)("models", "delete", name).exit_code == 0
    assert asked == [f"/v1/models/{name}"]


@pytest.mark.parametrize("what", ["files", "jobs", "models"])
def test_json_lists_what_was_deleted_and_tells_each_failure_on_a_line(sgg_to, what):
    result = sgg_to(deleting)(what, "delete", "bad-1", "good-2", "bad-3", "--json")
    assert result.exit_code == 1
    assert [one["id"] for one in json.loads(result.stdout)] == ["good-2"]
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert [one["argument"] for one in told] == ["bad-1", "bad-3"]
    assert told[0]["error"]["message"] == "bad-1 is in use."
    assert (told[0]["error"]["code"], told[0]["error"]["param"]) == ("invalid", "file")


def test_each_upload_is_told_with_its_id_and_what_is_odd_about_it(sgg_to, paths):
    result = sgg_to(storing)("files", "upload", *paths, "absent.jsonl")
    assert result.exit_code == 1
    assert "one.jsonl is file-one.jsonl: 2.0 kB, 8 classification examples; labels: x, y." in result.stdout
    assert "three.jsonl is file-three.jsonl" in result.stdout
    assert result.stdout.count("line 3: It is odd. Look.") == 2
    assert result.stderr.startswith("error: It is broken.\nerror: Cannot read absent.jsonl")


def test_what_was_done_is_told_also_where_the_server_goes_away(sgg_to):
    def answer(request):
        return httpx.Response(503) if "bad" in request.url.path else deleting(request)

    result = sgg_to(answer)("files", "delete", "good-1", "bad-2", "good-3", "--json")
    assert result.exit_code == 1
    assert [one["id"] for one in json.loads(result.stdout)] == ["good-1"]
    assert len(result.stderr.splitlines()) == 1
