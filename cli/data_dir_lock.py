"""One server per data directory: an advisory lock that the kernel releases even when the server is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CliError


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Create the data directory (0700) and hold its `serve.lock` for the length of a block.

    Raises CliError naming the process that holds it, or telling why the directory cannot be used.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(
            f"Cannot use the data directory {data_dir}: {error.strerror}.", "Choose another one with --data-dir."
        ) from error
    with os.fdopen(descriptor, "r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CliError(
                f"Another `sgg serve` (pid {stream.read().strip() or 'unknown'}) uses the data directory {data_dir}.",
                "Stop it first, or choose another directory with --data-dir.",
            ) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
