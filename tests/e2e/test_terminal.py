"""What a shell and a terminal get: completions of commands and ids, colours where they are seen and nowhere else."""

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import SGG

ESCAPE = b"\x1b["


@pytest.fixture(scope="module")
def job_id(service, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tickets.jsonl"
    path.write_text("".join(f'{{"text": "text {number}", "label": "{number % 2}"}}\n' for number in range(4)))
    return service.submit(path, "optimization.max_steps=1")


def completed(service, shell, words, **environment):
    """What a shell is told when it asks for completions of what was typed, as it asks."""
    line = "sgg " + " ".join(words)
    asked = {
        "_SGG_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    result = program(service, **(asked | environment))
    assert result.stderr == ""
    return result.stdout


def program(service, *arguments, **environment):
    """Run the installed program, after whose name shells and typer call the variables of completion."""
    path = Path(sys.executable).with_name("sgg")
    return subprocess.run(
        [path, *arguments],
        capture_output=True,
        text=True,
        env=service.environment | environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_commands_and_ids(service, job_id, shell):
    assert "submit" in completed(service, shell, ["jobs", "su"])
    assert "--validation" in completed(service, shell, ["jobs", "submit", "--val"])
    assert job_id in completed(service, shell, ["jobs", "show", job_id[:8]])
    assert "tiny" in completed(service, shell, ["jobs", "submit", "--model", "ti"])


def test_only_what_begins_as_typed_is_offered(service, job_id):
    assert completed(service, "bash", ["jobs", "show", "ftjob-x"]).strip() == ""
    file_id = service.sgg_json("jobs", "show", job_id)["training_file"]
    assert completed(service, "bash", ["files", "delete", file_id[:10]]).split() == [file_id]


def test_without_a_server_nothing_is_offered_and_nothing_is_said(service):
    away = {"SGG_BASE_URL": "http://127.0.0.1:9/v1"}
    assert completed(service, "bash", ["jobs", "show", "ftjob-"], **away).strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_works_in_the_real_shell(service, job_id, tmp_path, shell):
    if shutil.which(shell) is None:
        message = f"{shell} is not installed. Run `apt-get install {shell}`."
        pytest.fail(message) if shell == "bash" and os.environ.get("CI") else pytest.skip(message)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = service.environment | {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb", "ZDOTDIR": str(tmp_path)}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path / ".config"), "DISABLE_AUTO_UPDATE": "1"}
    subprocess.run([shell, "-c", "sgg --install-completion; true"], env=environment, check=True, capture_output=True)
    for line, whole in (("sgg jobs sub", "submit"), (f"sgg jobs show {job_id[:9]}", job_id)):
        assert whole in offered_by(shell, line, whole, environment)


def offered_by(shell, line, whole, environment):
    """What a shell shows when Tab is pressed after a line.

    fish draws what it offers, and so is asked for it; of zsh, whose line editor wants a terminal that can do more than
    this one, the installed function's question is asked.
    """
    questions = {
        "fish": f"complete --do-complete '{line}'",
        "zsh": f"grep -q _SGG_COMPLETE=complete_zsh ~/.zfunc/_sgg && "
        f"_TYPER_COMPLETE_ARGS='{line}' _SGG_COMPLETE=complete_zsh sgg",
    }
    if shell in questions:
        asked = [shell, "-c", questions[shell]]
        return subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    parent, child = pty.openpty()
    with subprocess.Popen([shell, "-i"], stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        os.write(parent, b"echo re''ady\n")
        read_until(parent, b"ready")
        os.write(parent, f"{line}\t".encode())
        written = read_until(parent, whole.encode())
        process.kill()
    os.close(parent)
    return written.decode(errors="replace")


def read_until(terminal, wanted):
    """Read what comes until it holds what is wanted, or nothing has come for a minute."""
    written = b""
    while wanted not in written and select.select([terminal], [], [], 60)[0]:
        written += os.read(terminal, 4096)
    return written


def shown(service, *arguments, **environment):
    """What a command writes to a terminal of 100 columns."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*SGG, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env=service.environment | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    ) as process:
        os.close(child)
        written = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            written += piece
        process.wait(60)
    os.close(parent)
    return written


def test_a_terminal_gets_colours_and_a_pipe_does_not(service, job_id):
    assert ESCAPE in shown(service, "jobs", "list")
    piped = service.sgg("jobs", "list", TERM="xterm-256color").stdout
    assert job_id in piped and "\x1b" not in piped


def test_no_colour_is_shown_to_those_who_want_none(service, job_id):
    for command in (("jobs", "list"), ("jobs", "show", "ftjob-none"), ("--help",)):
        assert b"\x1b[3" not in shown(service, *command, NO_COLOR="1"), command


def test_a_wrong_command_is_told_in_red_on_a_terminal_only(service):
    assert ESCAPE in shown(service, "jobs", "show", "ftjob-none")
    assert "\x1b" not in service.sgg("jobs", "show", "ftjob-none", TERM="xterm-256color").stderr


def test_a_table_fits_the_terminal(service, job_id):
    lines = shown(service, "jobs", "list", NO_COLOR="1").decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert job_id in lines and all(len(line) <= 100 for line in lines.splitlines())
