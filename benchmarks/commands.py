"""A command as it has to be typed for the same figures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

THREADS = "OMP_NUM_THREADS"


def command(arguments: Sequence[str]) -> str:
    """The command with the script and its arguments, and before it the number of threads if that is set."""
    threads = [f"{THREADS}={os.environ[THREADS]}"] if THREADS in os.environ else []
    return " ".join([*threads, "python", shlex.join(arguments)])
