import json
import resource
import subprocess
import sys

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from cli.main import app
from cli.settings_problems import problems_of
from cli.train import _way_on, newest_checkpoint
from docs.generate.commands import commands
from sgg_core.reporting import Stopped
from sgg_core.spec import TrainingSpec

COMMANDS = [tuple(path.split()[1:]) for path, _ in commands()]


@pytest.fixture
def sgg(monkeypatch, tmp_path):
    """The command line with a data directory of its own and no server to reach."""
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SGG_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("SGG_API_KEY", "sgg_test_key")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(sgg, command):
    result = sgg(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def letters(text):
    """A text as far as neither its layout nor Markdown's marks have a say in it."""
    return "".join(character for character in text if not (character.isspace() or character in "│`"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_tells_all_that_the_sources_say(sgg, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")  # so wide that no cell is broken into lines
    told = letters(sgg(*command, "--help").stdout)
    for parameter in (each for each in parameters(*command) if not each.hidden):
        assert letters(parameter.help or "") in told
        if parameter.show_default and parameter.default and isinstance(parameter.default, str | int | float):
            assert parameter.is_flag or letters(f"[default: {parameter.default}]") in told


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_prints_speaks_json(command):
    assert "--json" in options(*command)


def test_the_commands_are_those_that_the_program_offers(sgg):
    assert len(COMMANDS) > 40
    offered = {word for line in sgg("--help").stdout.splitlines() for word in line.replace("│", " ").split()[:1]}
    assert {command[0] for command in COMMANDS} <= offered


def test_scripts_can_rely_on_these_options():
    files = {"--train": "", "--validation": "", "--source": "repeatable", "--retention": ""}
    settings = {"--method": "", "--set": "repeatable", "--seed": ""}
    train = {
        "--model": "",
        **files,
        **settings,
        "--from": "",
        "--out": "required",
        "--checkpoints": "",
        "--spec": "",
        "--json": "",
    }
    assert options("train") == train
    more = {
        "--metadata": "repeatable",
        "--from": "",
        "--suffix": "",
        "--priority": "",
        "--spec": "",
        "--dry-run": "",
        "--watch": "",
        "--json": "",
    }
    submit = {"--model": "", **files, **settings, **more}
    assert options("jobs", "submit") == submit
    assert options("predict") == {"directory": "", "--model": "", "--text": "repeatable", "--file": "", "--json": ""}
    places = {"--host": "", "--port": "", "--data-dir": "", "--allow-remote": ""}
    assert options("serve") == {**places, "--worker": "", "--processes": "", "--json": ""}
    assert options("worker") == {"--json": ""}
    assert options("doctor") == {"--quick": "", "--json": ""}


def options(*command):
    """The long options and the arguments of a command, each with what is to know about it."""
    found = parameters(*command)
    names = {next((o for o in p.opts if o.startswith("--")), p.name): p for p in found}
    return {name: "required" if p.required else "repeatable" if p.multiple else "" for name, p in names.items()}


def parameters(*command):
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    return found.params


HEAVY = ("torch", "transformers", "peft", "matplotlib")
IMPORTS = f"""
import sys
from cli.main import app
from docs.generate.commands import commands
import cli.client, cli.jobs, sgg_core.catalogue, sgg_core.examples, sgg_core.spec
from cli.hyperparameters import parse_settings
parse_settings(["lora.rank=4"])
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
try:
    app({{arguments}})
except SystemExit as end:
    assert end.code == {{code}}, end.code
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["models", "list"], 0),
        (["bench", "accuracy", "--help"], 0),
        (["bench", "table", "/nonexistent.csv"], 1),
        (["files", "check", "/nonexistent.jsonl"], 1),
        (["jobs", "submit", "--model", "a", "--train", "/nonexistent", "--set", "lora.rank=4"], 1),
        (["worker"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_only_training_predicting_and_measuring_load_torch(arguments, code, tmp_path):
    script = IMPORTS.format(arguments=arguments, code=code)
    environment = {"SGG_DATA_DIR": str(tmp_path), "SGG_API_KEY": "key", "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr


def seconds_of(*command):
    """CPU time that a Python takes for this: what else the machine does must not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick():
    """Against the library that draws it, in turns: a few times as long, where torch alone would be dozens of times."""
    turns = [(seconds_of("-m", "cli.main", "--help"), seconds_of("-c", "import typer")) for _ in range(4)]
    ours, least = map(min, zip(*turns, strict=True))
    assert ours < 7 * least


def test_an_unreachable_server_is_one_line_with_a_remedy(sgg):
    result = sgg("files", "list")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: No answer from http://127.0.0.1:1/v1")
    assert "sgg serve" in result.stderr
    assert result.stdout == ""


def test_with_json_a_failure_is_a_line_of_json_and_results_stay_alone(sgg, monkeypatch):
    result = sgg("files", "list", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    error = json.loads(result.stderr)["error"]
    assert "No answer from" in error["message"] and "sgg serve" in error["remedy"]
    assert (error["code"], error["param"], error["problems"]) == (None, None, [])
    monkeypatch.setenv("SGG_LEASE_SECONDS", "abc")
    result = sgg("models", "list", "--json")
    assert result.exit_code == 2
    assert "SGG_LEASE_SECONDS" in json.loads(result.stderr)["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [("jobs", "show"), ("train",), ("train", "--out", "x", "--seed", "abc"), ("jobs", "list", "--bogus"), ("jbos",)],
    ids=" ".join,
)
def test_with_json_a_wrong_usage_is_json_too(sgg, arguments):
    plain, result = sgg(*arguments), sgg(*arguments, "--json")
    assert (result.exit_code, result.stdout) == (2, "") and plain.exit_code == 2
    error = json.loads(result.stderr)["error"]
    assert error["message"] and error["message"].rstrip(".") in " ".join(plain.stderr.replace("│", " ").split())
    assert error["remedy"].startswith("See ") and error["remedy"].endswith(" --help.")


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.parametrize("who", [("--model", "ft:m"), (".",)], ids=("there", "here"))
def test_an_empty_text_is_no_question(sgg, who, text):
    result = sgg("predict", *who, "--text", "a", "--text", text)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: The --text is empty.")


def test_who_stops_a_training_is_told_how_to_go_on(tmp_path):
    lost, kept = (Stopped(reason="cancel", step=3, directory=each) for each in (None, str(tmp_path)))
    assert _way_on(lost, None) == "No checkpoint was kept. Next time, give --checkpoints DIR to be able to resume."
    assert _way_on(lost, tmp_path) == "No checkpoint was kept."
    assert str(tmp_path) in _way_on(kept, tmp_path)


def test_errors_of_the_core_are_told_without_a_traceback(sgg, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n{nonsense\n')
    result = sgg("files", "check", tmp_path / "bad.jsonl")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "line 3" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_command_is_a_usage_error(sgg):
    assert sgg("jbos").exit_code == 2
    assert sgg("jobs", "wach").exit_code == 2


def test_the_version_is_that_of_the_distribution(sgg):
    from importlib.metadata import version

    assert sgg("--version").output.strip() == f"sgg {version('sgg')}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_that_others_can_reach_needs_consent(sgg, host):
    result = sgg("serve", "--host", host)
    assert result.exit_code == 2
    assert "--allow-remote" in result.stderr


def test_a_mistyped_setting_is_found_before_anything_is_sent_or_loaded(sgg):
    for command in (
        ("jobs", "submit", "--train", "t.jsonl"),
        ("train", "--train", "t.jsonl", "--out", "o"),
    ):
        result = sgg(*command, "--model", "m", "--set", "guidance.raduis=1")
        assert result.exit_code == 2
        assert "guidance.radius" in result.stderr


def test_sources_need_the_guided_method(sgg):
    result = sgg("jobs", "submit", "-m", "m", "--train", "t", "--method", "supervised", "--source", "s")
    assert result.exit_code == 2
    assert "--method sgg" in result.stderr


def test_a_training_goes_on_from_the_newest_checkpoint_also_if_plain_lora_had_run_by_then(tmp_path):
    for name in ("step-00000004", "step-00000008", "step-00000008-compared", ".step-00000009.part"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000008-compared"
    assert newest_checkpoint(tmp_path / "none") is None


def test_a_worker_without_a_broker_is_sent_to_serve(sgg):
    result = sgg("worker")
    assert result.exit_code == 1
    assert "SGG_BROKER_URL" in result.stderr


def test_variables_that_make_no_sense_are_named_all_at_once(sgg, monkeypatch):
    monkeypatch.setenv("SGG_LEASE_SECONDS", "abc")
    monkeypatch.setenv("SGG_MAX_RUNNING_JOBS", "-1")
    result = sgg("models", "list")
    assert result.exit_code == 2 and "Traceback" not in result.output
    told = result.stderr.splitlines()
    assert len(told) == 2 and "SGG_LEASE_SECONDS: Input should be a valid number" in told[0]
    assert told[1].startswith("SGG_MAX_RUNNING_JOBS: ") and told[1].endswith("Correct or unset the variable.")


WRONG = {
    "SGG_LOG_LEVEL": "loud",
    "SGG_MAX_RUNNING_JOBS": "-1",
    "SGG_S3_LINK_SECONDS": "0",
    "SGG_RATE_LIMIT": "lots",
    "SGG_JOBS_AT_ONCE": "0",
}


@pytest.mark.parametrize(
    ("command", "unread"),
    [
        (("serve", "--port", "0"), set()),
        (("serve", "--port", "0", "--no-worker"), {"SGG_JOBS_AT_ONCE"}),
        (("worker",), {"SGG_RATE_LIMIT"}),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_who_starts_is_told_all_wrong_variables_that_it_reads_before_anything_begins(
    sgg, monkeypatch, tmp_path, command, unread
):
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SGG_OBJECT_STORE_URL", "s3://bucket")
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
    result = sgg(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    told = [line.removeprefix("error: ").split(":")[0] for line in result.stderr.splitlines()]
    assert sorted(told) == sorted(set(WRONG) - unread)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SGG_RATE_LIMIT", "lots"), ("SGG_JOBS_AT_ONCE", "0"), ("SGG_LOG_LEVEL", "loud"), ("SGG_CPU_PRECISION", "half")],
)
def test_the_doctor_looks_at_what_servers_and_workers_read(sgg, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    result = sgg("doctor", "--quick", "--json")
    settings = [each for each in json.loads(result.stdout)["findings"] if each["part"] == "settings"]
    assert result.exit_code == 1
    assert [each["message"].split(":")[0] for each in settings] == [variable]


def test_only_errors_of_settings_are_told_so():
    with pytest.raises(ValidationError) as other:
        TrainingSpec.model_validate({})
    assert problems_of(other.value) == []


@pytest.mark.parametrize("option", [("--method", "supervised"), ("--seed", "0"), ("--source", "s.jsonl")])
@pytest.mark.parametrize("command", [("train", "--out", "o"), ("jobs", "submit")], ids=" ".join)
def test_an_option_that_a_file_speaks_of_is_refused_beside_it(sgg, command, option):
    result = sgg(*command, "--spec", "job.yaml", *option)
    assert result.exit_code == 2
    assert "--spec describes the whole job" in result.stderr


def test_a_file_alone_is_read(sgg):
    for command in (("train", "--out", "o"), ("jobs", "submit")):
        assert "Cannot read none.yaml: No such file or directory." in sgg(*command, "--spec", "none.yaml").stderr
