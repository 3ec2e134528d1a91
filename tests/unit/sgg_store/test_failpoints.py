"""Failpoints do what they are armed with, once, and nothing at all in a process that was not told of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sgg_store.failpoints import Failpoint

PASS_TWICE = f"""
from sgg_store.failpoints import Failpoint, reach
for _ in range(2):
    reach(Failpoint("{Failpoint.JOB_CLAIMED}"))
    print("passed", flush=True)
"""


def start(directory: Path | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SGG_FAILPOINTS"}
    environment |= {"SGG_FAILPOINTS": str(directory)} if directory else {}
    return subprocess.Popen([sys.executable, "-c", PASS_TWICE], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_process_dies_at_an_armed_failpoint_and_the_next_one_passes(tmp_path: Path) -> None:
    (tmp_path / Failpoint.JOB_CLAIMED).write_text("kill")
    with start(tmp_path) as first:
        assert (first.communicate()[0], first.returncode) == ("", -signal.SIGKILL)
    assert (tmp_path / f"{Failpoint.JOB_CLAIMED}.fired").exists()
    with start(tmp_path) as second:
        assert (second.communicate()[0], second.returncode) == ("passed\npassed\n", 0)


def test_a_held_process_goes_on_when_it_is_let_go(tmp_path: Path) -> None:
    (tmp_path / Failpoint.JOB_CLAIMED).write_text("hold")
    fired = tmp_path / f"{Failpoint.JOB_CLAIMED}.fired"
    with start(tmp_path) as held:
        assert held.stdout is not None
        while not fired.exists():
            assert held.poll() is None
        fired.unlink()
        assert held.stdout.read() == "passed\npassed\n"


def test_without_the_variable_there_are_no_failpoints(tmp_path: Path) -> None:
    (tmp_path / Failpoint.JOB_CLAIMED).write_text("kill")
    with start(None) as process:
        assert process.communicate()[0] == "passed\npassed\n"
    assert (tmp_path / Failpoint.JOB_CLAIMED).exists()
