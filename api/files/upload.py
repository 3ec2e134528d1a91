"""Reading an upload: from the request's multipart body to a temporary file that its project may keep."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from api.auth import Caller
from api.dependencies import Services
from api.errors import FileTooLargeError, InvalidRequestError, UploadStalledError
from api.files.schemas import ExpiresAfter, Upload
from api.validation import RequestProblem, broken_texts
from sgg_store.quotas import Quotas

MULTIPART_OVERHEAD_BYTES = 64 * 1024  # boundaries, part headers and the small fields around an uploaded file
MAX_FIELDS = 8
MAX_FIELD_BYTES = 16 * 1024
MAX_FILENAME_CHARS = 255
SILENT_SECONDS = 60.0
"""A client that sends nothing for so long while its upload is under way is taken for gone."""
BYTES_BETWEEN_LOOKS = 2**20
"""How much more of a body is taken before the quota is looked at again."""


@asynccontextmanager
async def received_upload(request: Request, services: Services, caller: Caller) -> AsyncIterator[Upload]:
    """Give the file that the request carries, until the block ends.

    Raises InvalidRequestError with every problem of the form, or FileTooLargeError, and what `received_form` raises.
    """
    max_bytes = services.settings.max_upload_bytes
    async with received_form(request, services, caller, max_fields=MAX_FIELDS) as form:
        lifetime, expiry_problems = _lifetime(form)
        problems = [*_file_problems(form), *_purpose_problems(form), *expiry_problems]
        if problems:
            raise InvalidRequestError(problems)
        part, purpose = form["file"], form["purpose"]
        assert isinstance(part, UploadFile) and isinstance(purpose, str)
        size = part.size or 0
        if size > max_bytes:
            raise FileTooLargeError(
                f"The file has {size:,} bytes; the limit is {max_bytes:,}. Leave examples out, or split it."
            )
        yield Upload(part.filename or "", purpose, size, part.file, lifetime)


@asynccontextmanager
async def received_form(
    request: Request, services: Services, caller: Caller, max_fields: int
) -> AsyncIterator[FormData]:
    """Give the form that the request carries, with one file at most, until the block ends.

    It waits for the project's turn before it takes anything, so that no project fills the disk with what it may not
    keep. Raises QuotaExceededError once the body is larger than what the project may still keep: at once if its length
    is announced. Raises UploadStalledError.
    """
    async with services.uploading[caller.project_id]:
        body = _Body(request, services, caller)
        announced = request.headers.get("content-length", "")
        await body.expect(int(announced) if announced.isdecimal() else 0)
        bounded = Request(request.scope, body.receive)
        async with bounded.form(max_files=1, max_fields=max_fields, max_part_size=MAX_FIELD_BYTES) as form:
            yield form


class _Body:
    """The body of an upload as it comes in."""

    def __init__(self, request: Request, services: Services, caller: Caller) -> None:
        self._request = request
        self._services = services
        self._caller = caller
        self._received = 0
        self._expected = 0

    async def expect(self, size: int) -> None:
        """Raise QuotaExceededError if the project may not keep a body of so many bytes."""
        self._expected = size
        await run_in_threadpool(self._look, max(0, size - MULTIPART_OVERHEAD_BYTES))

    def _look(self, size: int) -> None:
        with self._services.database.read() as session:
            Quotas(session, self._services.settings.quotas).expect_bytes(self._caller.project_id, size)

    async def receive(self) -> Message:
        """The next piece. Raises UploadStalledError, or QuotaExceededError for a length that was not announced."""
        message: Message | None = None
        with anyio.move_on_after(SILENT_SECONDS):
            message = await self._request.receive()
        if message is None:
            raise UploadStalledError(f"No data of the file arrived for {SILENT_SECONDS:.0f} seconds. Send it again.")
        self._received += len(message.get("body", b""))
        if self._received > self._expected:
            await self.expect(self._received)
            self._expected += BYTES_BETWEEN_LOOKS
        return message


def _file_problems(form: FormData) -> list[RequestProblem]:
    part = form.get("file")
    if not isinstance(part, UploadFile) or not part.filename:
        message = "Send the file as a part named 'file', with a filename, in a multipart/form-data body."
        return [RequestProblem("file", "missing_file", message)]
    if len(part.filename) > MAX_FILENAME_CHARS:
        message = f"The filename is longer than {MAX_FILENAME_CHARS} characters. Shorten it."
        return [RequestProblem("file", "invalid_value", message)]
    return broken_texts(part.filename, "file")


def _lifetime(form: FormData) -> tuple[int | None, list[RequestProblem]]:
    """The seconds that the file is to live, as OpenAI's clients write it: `expires_after[seconds]=3600`."""
    given = {name: value for name, value in form.items() if name.startswith("expires_after")}
    if not given:
        return None, []
    try:
        fields = {name.removeprefix("expires_after[").removesuffix("]"): value for name, value in given.items()}
        return ExpiresAfter.model_validate(fields).seconds, []
    except ValidationError:
        message = (
            "The lifetime cannot be used. Send expires_after[anchor]=created_at and expires_after[seconds] of 3600 (an "
            "hour) to 2592000 (30 days)."
        )
        return None, [RequestProblem("expires_after", "invalid_value", message)]


def _purpose_problems(form: FormData) -> list[RequestProblem]:
    purpose = form.get("purpose")
    if purpose == "fine-tune":
        return []
    given = f"it is {purpose!r}" if isinstance(purpose, str) else "it is missing"
    return [RequestProblem("purpose", "invalid_purpose", f"The purpose must be 'fine-tune'; {given}.")]
