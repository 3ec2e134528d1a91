"""What happens to files: parse before storing, store before the row, delete the row before the bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.auth import Caller
from api.dependencies import Services
from api.errors import ContentMissingError
from api.files.adapters import AdapterFileFacts
from api.files.facts import FileFacts
from api.files.inspection import inspect
from api.files.schemas import FileOut, ProblemOut, SggFileOut, Upload
from sgg_store import ids
from sgg_store.cleaning import delete_objects, deleted_without_a_row
from sgg_store.errors import ObjectNotFoundError
from sgg_store.files import Files
from sgg_store.objects import file_key
from sgg_store.pages import Page
from sgg_store.quotas import Quotas
from sgg_store.records import FileRecord

READ_AT_ONCE = 20
MOST_LISTED_CHARACTERS = 10_000_000
"""What is known of the files of one page has about so many at most."""


def create(
    services: Services,
    caller: Caller,
    upload: Upload,
    replacing: Callable[[Session, str], None] = lambda session, file_id: None,
    counted: int = 0,
) -> FileOut:
    """Store a file of examples.

    `replacing` removes what the file with this id is made of, in the same transaction: so many bytes as `counted`.

    Raises InvalidFileError with all its problems; then nothing is kept.

    Raises QuotaExceededError if the project may not keep so much.
    """
    quotas = services.settings.quotas
    with services.database.read() as session:
        Quotas(session, quotas).expect_bytes(caller.project_id, upload.size - counted)
    with services.inspecting:
        facts = inspect(upload, services.settings.max_upload_bytes)
    file_id = ids.new_id("file-")
    key = file_key(file_id)
    upload.stream.seek(0)
    services.objects.put(key, upload.stream)
    with deleted_without_a_row(services.objects, key), services.database.begin() as session:
        replacing(session, file_id)
        Quotas(session, quotas).admit_bytes(caller.project_id, upload.size)
        record = Files(session).add(
            file_id=file_id,
            project_id=caller.project_id,
            filename=upload.filename,
            purpose=upload.purpose,
            bytes=upload.size,
            sha256=facts.sha256,
            object_key=key,
            facts=facts.model_dump(mode="json"),
            lifetime_seconds=upload.lifetime_seconds,
        )
        caller.trail.write(session, file_id, bytes=upload.size, sha256=facts.sha256)
    return to_out(record)


def list_page(
    services: Services,
    caller: Caller,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    purpose: str | None,
) -> Page[FileOut]:
    """Give one page of the caller's files: fewer than `limit` where very much is known of them.

    Of a file with many long labels that can be a megabyte, so that it is read of few files at a time.
    """
    listed: list[FileOut] = []
    characters = 0
    with services.database.read() as session:
        files = Files(session)
        page = files.list_page(caller.project_id, after=after, limit=limit, order=order, purpose=purpose)
        for start in range(0, len(page.items), READ_AT_ONCE):
            if characters >= MOST_LISTED_CHARACTERS:
                return Page(listed, has_more=True)
            records = page.items[start : start + READ_AT_ONCE]
            facts = files.facts_of([record.id for record in records])
            characters += sum(len(repr(each)) for each in facts.values())
            listed += [_out(record, facts[record.id]) for record in records if record.id in facts]
    return Page(listed, page.has_more)


def retrieve(services: Services, caller: Caller, file_id: str) -> FileRecord:
    """Give the file's row. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return Files(session).get(caller.project_id, file_id)


def delete(services: Services, caller: Caller, file_id: str) -> None:
    """Delete a file. Raises RecordNotFoundError, FileOfModelError, or FileInUseError naming the jobs that need it."""
    with services.database.begin() as session:
        record = Files(session).delete(caller.project_id, file_id)
        caller.trail.write(session, file_id)
    delete_objects(services.objects, (), [record.object_key])


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes: an address that gives them to anyone for a while, or the bytes themselves in chunks."""

    record: FileRecord
    link: str | None
    chunks: Iterator[bytes]


def content(services: Services, caller: Caller, file_id: str) -> Content:
    """Give the file's bytes. Raises RecordNotFoundError or ContentMissingError."""
    record = retrieve(services, caller, file_id)
    link = services.objects.link(record.object_key)
    try:
        if link is None:
            return Content(record, None, services.objects.open(record.object_key))
        services.objects.size(record.object_key)  # an address of nothing would only be found out by its reader
        return Content(record, link, iter(()))
    except ObjectNotFoundError as error:
        raise ContentMissingError(
            f"The bytes of {file_id} are lost. Upload the file again, and tell the administrator."
        ) from error


def to_out(record: FileRecord) -> FileOut:
    """Translate a row."""
    return _out(record, record.facts)


def _out(record: FileRecord, found: dict[str, Any] | None) -> FileOut:
    known = SggFileOut(sha256=record.sha256)
    if found is not None and found["kind"] == "adapter":
        adapter = AdapterFileFacts.model_validate(found)
        known = SggFileOut(
            sha256=adapter.sha256, kind="adapter", rank=adapter.adapter.rank, targets=adapter.adapter.targets
        )
    elif found is not None:
        facts = FileFacts.model_validate(found)
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
