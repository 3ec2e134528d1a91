"""What happens to files: parse before storing, store before the row, delete the row before the bytes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Literal

from api.auth import Caller
from api.dependencies import Services
from api.errors import ContentMissingError
from api.files.facts import FileFacts
from api.files.inspection import inspect
from api.files.schemas import FileOut, ProblemOut, SggFileOut, Upload
from sgg_store import ids
from sgg_store.errors import ObjectNotFoundError, StoreError
from sgg_store.files import Files
from sgg_store.objects import file_key
from sgg_store.pages import Page
from sgg_store.records import FileRecord

logger = logging.getLogger("sgg.api")


def create(services: Services, caller: Caller, upload: Upload) -> FileOut:
    """Store a file of examples. Raises InvalidFileError with all its problems; then nothing is kept."""
    with services.inspecting:
        facts = inspect(upload, services.settings.max_upload_bytes)
    file_id = ids.new_id("file-")
    key = file_key(file_id)
    upload.stream.seek(0)
    services.objects.put(key, upload.stream)
    try:
        with services.database.begin() as session:
            record = Files(session).add(
                file_id=file_id,
                project_id=caller.project_id,
                filename=upload.filename,
                purpose=upload.purpose,
                bytes=upload.size,
                sha256=facts.sha256,
                object_key=key,
                facts=facts.model_dump(mode="json"),
            )
    except BaseException:
        services.objects.delete(key)
        raise
    return to_out(record)


def list_page(
    services: Services,
    caller: Caller,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    purpose: str | None,
) -> Page[FileRecord]:
    """Give one page of the caller's files."""
    with services.database.read() as session:
        return Files(session).list_page(caller.project_id, after=after, limit=limit, order=order, purpose=purpose)


def retrieve(services: Services, caller: Caller, file_id: str) -> FileRecord:
    """Give the file's row. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return Files(session).get(caller.project_id, file_id)


def delete(services: Services, caller: Caller, file_id: str) -> None:
    """Delete a file. Raises RecordNotFoundError, or FileInUseError naming the jobs that still need it."""
    with services.database.begin() as session:
        record = Files(session).delete(caller.project_id, file_id)
    try:
        services.objects.delete(record.object_key)
    except (StoreError, OSError):  # the file is gone for every caller; only its space is not free yet
        logger.exception("The object %s of the deleted file %s stays behind", record.object_key, file_id)


def content(services: Services, caller: Caller, file_id: str) -> tuple[FileRecord, Iterator[bytes]]:
    """Give the file's row and its bytes in chunks. Raises RecordNotFoundError or ContentMissingError."""
    record = retrieve(services, caller, file_id)
    try:
        return record, services.objects.open(record.object_key)
    except ObjectNotFoundError as error:
        raise ContentMissingError(
            f"The bytes of {file_id} are lost. Upload the file again, and tell the administrator."
        ) from error


def to_out(record: FileRecord) -> FileOut:
    """Translate a row."""
    known = SggFileOut(sha256=record.sha256)
    if record.facts is not None:
        facts = FileFacts.model_validate(record.facts)
        known = SggFileOut(
            sha256=facts.sha256,
            kind=facts.kind,
            examples=facts.examples,
            labels=tuple(sorted(facts.label_lines)),
            warning_count=facts.warning_count,
            warnings=tuple(ProblemOut(**dataclasses.asdict(warning)) for warning in facts.warnings),
        )
    return FileOut(
        id=record.id,
        bytes=record.bytes,
        created_at=int(record.created_at),
        expires_at=None if record.expires_at is None else int(record.expires_at),
        filename=record.filename,
        purpose=record.purpose,
        status=record.status,
        status_details=record.status_details,
        sgg=known,
    )
