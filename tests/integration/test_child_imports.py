"""Child processes import what is installed, whatever packages lie in the directory that their parent was started in."""

import tempfile

import pytest

from api.files.inspection import SMALL_BYTES, inspect
from api.files.schemas import Upload
from cli.server_processes import COMMAND as SERVER_COMMAND
from sgg_core.proof import Question, Server
from sgg_core.team.leader import COMMAND as TEAM_COMMAND
from worker.child import TRAINER_COMMAND, spawn
from worker.fork_server import FORK_SERVER_COMMAND
from worker.predictor import PREDICTOR_COMMAND

INTRUDER = "import os; os.write(2, b'an intruder'); os._exit(66)\n"


@pytest.fixture(autouse=True)
def _strangers(tmp_path, monkeypatch):
    for name in ("api", "cli", "worker", "sgg_core"):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(INTRUDER)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


def test_large_uploads_are_inspected():
    line = b'{"text": "%s", "label": "long"}\n' % (b"word " * 2000)
    with tempfile.TemporaryFile() as stream:
        stream.write(line * (SMALL_BYTES // len(line) + 2))
        upload = Upload("long.jsonl", "fine-tune", stream.tell(), stream, None)
        assert inspect(upload, 2**24).examples == SMALL_BYTES // len(line) + 2


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (SERVER_COMMAND, 1, b"cli/server_processes.py"),  # its argument is no socket
        (FORK_SERVER_COMMAND, 1, b"worker/fork_server_process.py"),  # an argument is missing
        (TRAINER_COMMAND, 0, b""),
        (TEAM_COMMAND, 0, b""),
        ((*PREDICTOR_COMMAND, "0", "cpu"), 0, b""),
    ],
)
def test_processes_that_stay_begin(command, code, says):
    child = spawn(command)
    child.stdin.close()
    said = child.stderr.read()
    assert (child.wait(), b"No module named" in said, b"intruder" in said) == (code, False, False), said
    assert says in said
    child.close()


def test_the_server_of_fresh_processes_answers(tmp_path):
    server = Server.start()
    question = Question(kind="encoder", base=tmp_path, adapter=tmp_path, prompts=[], expected=tmp_path, device="cpu")
    try:
        assert "config.json" in server.ask(question).problem
    finally:
        server.close()
