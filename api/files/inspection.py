"""Inspecting an upload: in this process if it is small, in one of its own if it is large."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from api.errors import FileInspectionError, InvalidFileError
from api.files.adapters import SUFFIX, AdapterFileFacts
from api.files.facts import FileFacts
from api.files.schemas import Upload
from sgg_core.errors import DataError, Problem
from sgg_store.logs import get_logger

_log = get_logger(__name__)

SMALL_BYTES = 2**20
TIMEOUT_SECONDS = 120.0


def inspect(upload: Upload, max_bytes: int) -> FileFacts | AdapterFileFacts:
    """Give the facts of an upload. Raises InvalidFileError with all its problems, or FileInspectionError."""
    upload.stream.seek(0)
    try:
        if upload.filename.endswith(SUFFIX):
            return AdapterFileFacts.read(upload)
        if upload.size <= SMALL_BYTES:
            return FileFacts.read(upload.stream.read(), upload.filename, max_bytes)
        return _inspect_apart(upload, max_bytes)
    except DataError as error:
        raise InvalidFileError(error) from error


def _inspect_apart(upload: Upload, max_bytes: int) -> FileFacts:
    command = [sys.executable, "-P", "-m", "api.files.facts", json.dumps(upload.filename), str(max_bytes)]
    descriptor = upload.stream.fileno()
    os.lseek(descriptor, 0, os.SEEK_SET)  # the child shares the file's position, which the buffer above may hide
    try:
        done = subprocess.run(command, stdin=descriptor, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        _log.error("the inspection of an upload failed", said=(error.stderr or b"")[-2000:].decode(errors="replace"))
        raise FileInspectionError(
            "The file could not be inspected. Split it into smaller files, or tell the administrator."
        ) from error
    answer = json.loads(done.stdout)
    if "problems" in answer:
        raise DataError(upload.filename, tuple(Problem(**problem) for problem in answer["problems"]))
    return FileFacts.model_validate(answer["facts"])
