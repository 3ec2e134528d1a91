"""Reading an upload: from the request's multipart body to a temporary file of bounded size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from api.errors import FileTooLargeError, InvalidRequestError
from api.files.schemas import ExpiresAfter, Upload
from api.validation import RequestProblem, broken_texts

MAX_FIELDS = 8
MAX_FIELD_BYTES = 16 * 1024
MAX_FILENAME_CHARS = 255


@asynccontextmanager
async def received_upload(request: Request, max_bytes: int) -> AsyncIterator[Upload]:
    """Give the file that the request carries, until the block ends.

    Raises InvalidRequestError with every problem of the form, or FileTooLargeError.
    """
    async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
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
            "Send expires_after[anchor]=created_at and expires_after[seconds] of 3600 (an hour) to 2592000 (30 days)."
        )
        return None, [RequestProblem("expires_after", "invalid_value", message)]


def _purpose_problems(form: FormData) -> list[RequestProblem]:
    purpose = form.get("purpose")
    if purpose == "fine-tune":
        return []
    given = f"it is {purpose!r}" if isinstance(purpose, str) else "it is missing"
    return [RequestProblem("purpose", "invalid_purpose", f"The purpose must be 'fine-tune'; {given}.")]
