"""Files on disk: hashes, locks between processes, and directories that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgg_core.errors import NO_SPACE, DiskFullError


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold an advisory lock between processes for the length of a block."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Fill a temporary directory; on success it is fsynced and becomes `target`, replacing an older one.

    On any error nothing of it remains. Raises DiskFullError where the disk ran out of space.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}-{secrets.token_hex(8)}"
    work.mkdir()  # not mkdtemp, whose directories only their owner can read
    try:
        yield work
        for path in sorted(work.rglob("*")):
            fsync(path)
        fsync(work)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
        fsync(target.parent)
    except Exception as error:
        if error_number(error) in NO_SPACE:
            raise DiskFullError(
                f"No space left while writing {target}.", "Free disk space, or choose another directory, and go on."
            ) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def error_number(error: Exception) -> int | None:
    """The operating system's error number, or None; safetensors and tokenizers tell it in their message only."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def fsync(path: Path) -> None:
    """Have the disk hold what a file, or the names in a directory, are now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
