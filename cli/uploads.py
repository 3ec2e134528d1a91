"""The data files of a job to submit: those that the server has already, and those that are uploaded for it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.client import Client
from cli.errors import ApiError, CliError, ServerUnreachableError, cannot_read
from cli.job_file import FILE_ID
from cli.output import complain

NEWEST = 500  # files of the server among which a copy is looked for
FORBIDDEN = 403


class Uploads:
    """Gives the ids of files that are named by id or by path; of a path, what is not on the server is uploaded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._new: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] | None = None

    def file_id(self, reference: str, path: Path) -> str:
        """Return the id of a data file. Raises CliError if it is neither an id nor a file here, or is refused."""
        if FILE_ID.fullmatch(reference):
            return reference
        if not path.is_file():
            raise CliError(f"{path} is neither a file here nor an id of an uploaded file.", "Check the path.")
        return self._uploaded(path)

    def start(self, reference: str, path: Path) -> str:
        """Return the name of a starting point; an adapter that is here is packed into one file and uploaded."""
        if not path.exists():
            return reference
        from sgg_core.adapter_file import pack

        with tempfile.TemporaryDirectory() as scratch:
            packed = path
            if path.is_dir():
                packed = Path(scratch) / f"{path.resolve().name}.safetensors"
                pack(path, packed)
            return self._uploaded(packed)

    def discard(self) -> None:
        """Delete what was uploaded; what cannot be deleted is told."""
        for file in self._new:
            try:
                self._client.delete(f"/files/{file['id']}")
            except CliError as error:
                complain(f"{file['id']} ({file['filename']}) stays on the server: {error}", style="yellow")

    def _uploaded(self, path: Path) -> str:
        file = self._copy_of(path)
        if file is None:
            file = self._client.upload(path)
            self._new.append(file)
        return str(file["id"])

    def _copy_of(self, path: Path) -> dict[str, Any] | None:
        """A file of the same name and bytes that is there, and does not expire."""
        digest = _sha256(path)
        for file in (*self._new, *self._files()):
            same = (file["filename"], file["sgg"]["sha256"]) == (path.name, digest)
            if same and file["expires_at"] is None:
                return file
        return None

    def _files(self) -> list[dict[str, Any]]:
        if self._known is None:
            try:
                self._known = list(self._client.items("/files", limit=NEWEST, filters={"purpose": ["fine-tune"]}))
            except ApiError as error:
                if error.status != FORBIDDEN:  # a key may upload files and not list them
                    raise
                self._known = []
        return self._known


@contextmanager
def uploads_for_a_job(client: Client, *, keep: bool) -> Iterator[Uploads]:
    """Give the uploads of one job; they are deleted where it is refused, and where they are not to be kept."""
    uploads = Uploads(client)
    try:
        yield uploads
    except BaseException as error:
        unknown = isinstance(error, ServerUnreachableError | KeyboardInterrupt)  # whether a job needs them now
        if not keep or not unknown:
            uploads.discard()
        raise
    if not keep:
        uploads.discard()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from error
