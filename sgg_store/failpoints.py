"""Named places where a test can make a process die or wait, where timing has to be exact. Off in every other process.

`SGG_FAILPOINTS`, read once at the start, names a directory. A file in it with a failpoint's name arms it: the first
process that gets there takes the file (it is renamed to `NAME.fired`, which proves that the failpoint was reached) and
does what is written in it, `kill` or `hold`. Without the variable `reach` does nothing; no request can set it.
"""

from __future__ import annotations

import os
import signal
import time
from enum import StrEnum
from pathlib import Path

_DIRECTORY = os.environ.get("SGG_FAILPOINTS")
_POLL_SECONDS = 0.01


class Failpoint(StrEnum):
    """Where a process can be made to stumble."""

    JOB_COMMITTED = "job-committed"  # API: the job's row is there, its doorbell has not rung
    JOB_CLAIMED = "job-claimed"  # worker: the attempt's row is there, nothing was fetched
    CHECKPOINT_HALF_STORED = "checkpoint-half-stored"  # worker: all parts are stored, their manifest is not
    CHECKPOINT_STORED = "checkpoint-stored"  # worker: the manifest is stored, too, but the checkpoint has no row
    RESULT_STORED = "result-stored"  # worker: the result's files are stored, the job is still running


def reach(failpoint: Failpoint) -> None:
    """Do what the failpoint was armed with, if it was: die as by `kill -9`, or wait until the fired file is removed."""
    if _DIRECTORY is None:
        return
    armed, fired = Path(_DIRECTORY, failpoint), Path(_DIRECTORY, f"{failpoint}.fired")
    try:
        armed.rename(fired)  # of several processes, one succeeds
    except FileNotFoundError:
        return
    if fired.read_text() == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while fired.exists():
        time.sleep(_POLL_SECONDS)
