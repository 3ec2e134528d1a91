import os
import subprocess
import sys

import pytest

from cli.data_dir_lock import locked
from cli.errors import CliError

HOLD = """
import pathlib, sys
from cli.data_dir_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_process_is_refused_and_told_the_first_ones_pid(tmp_path, holder):
    with pytest.raises(CliError, match=f"pid {holder.pid}"), locked(tmp_path):
        pass


def test_a_killed_holder_leaves_the_directory_free(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / "serve.lock").read_text().strip() == str(os.getpid())


def test_a_new_data_directory_is_private(tmp_path):
    with locked(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_a_directory_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="--data-dir"), locked(tmp_path / "file" / "data"):
        pass
