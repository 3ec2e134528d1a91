"""What happens to uploads: parts are objects until they are put together, checked, and stored as one file."""

from __future__ import annotations

import hashlib
import tempfile
from typing import BinaryIO, cast

from sqlalchemy.orm import Session

from api.auth import Caller
from api.dependencies import Services
from api.errors import ContentMissingError, FileTooLargeError, InvalidRequestError
from api.files import service as files
from api.files.schemas import Upload
from api.uploads.schemas import CompletionIn, PartOut, UploadIn, UploadOut
from api.validation import RequestProblem, broken_texts
from sgg_store import ids
from sgg_store.cleaning import delete_objects, deleted_without_a_row
from sgg_store.errors import ObjectNotFoundError, RecordNotFoundError, UploadStatusError
from sgg_store.objects import upload_part_key
from sgg_store.quotas import Quotas
from sgg_store.records import FileRecord, UploadPartRecord, UploadRecord
from sgg_store.uploads import Uploads


def create(services: Services, caller: Caller, wanted: UploadIn) -> UploadOut:
    """Begin an upload. Raises FileTooLargeError, QuotaExceededError or TooManyUploadsError."""
    problems = broken_texts(wanted.model_dump(mode="json"))
    if problems:
        raise InvalidRequestError(problems)
    limit = services.settings.max_upload_bytes
    if wanted.bytes > limit:
        raise FileTooLargeError(
            f"The file has {wanted.bytes:,} bytes; the limit is {limit:,}. Leave examples out, or split it."
        )
    lifetime = wanted.expires_after.seconds if wanted.expires_after else None
    with services.database.begin() as session:
        Quotas(session, services.settings.quotas).expect_bytes(caller.project_id, wanted.bytes)
        upload = Uploads(session).create(caller.project_id, wanted.filename, wanted.purpose, wanted.bytes, lifetime)
        caller.trail.write(session, upload.id, bytes=wanted.bytes)
    return _out(upload, None)


def add_part(services: Services, caller: Caller, upload_id: str, size: int, stream: BinaryIO) -> PartOut:
    """Store a part. Then nothing is kept where it raises: RecordNotFoundError, UploadStatusError, TooManyPartsError,
    UploadSizeError, QuotaExceededError.
    """
    with services.database.begin() as session:
        Uploads(session).expect_part(caller.project_id, upload_id, size)
    part_id = ids.new_id("part_")
    key = upload_part_key(upload_id, part_id)
    services.objects.put(key, stream)
    with deleted_without_a_row(services.objects, key), services.database.begin() as session:
        Uploads(session).pending(caller.project_id, upload_id, "added to")  # locked before the project, as elsewhere
        Quotas(session, services.settings.quotas).admit_bytes(caller.project_id, size)
        part = Uploads(session).add_part(caller.project_id, upload_id, part_id, size)
        caller.trail.write(session, upload_id, part=part_id, bytes=size)
    return PartOut(id=part.id, created_at=int(part.created_at), upload_id=upload_id)


def complete(services: Services, caller: Caller, upload_id: str, wanted: CompletionIn) -> UploadOut:
    """Make a file of the parts. Asking again, because the answer was lost, gives the same file.

    Raises RecordNotFoundError, UploadStatusError, InvalidRequestError if the parts are not the file that was announced,
    and what a file of examples is refused for (`files.create`).
    """
    if (done := _completed(services, caller, upload_id)) is not None:
        return done
    try:
        _complete(services, caller, upload_id, wanted)
    except (UploadStatusError, RecordNotFoundError, ContentMissingError):
        if (done := _completed(services, caller, upload_id)) is None:  # else by the same request, sent once more
            raise
        return done
    done = _completed(services, caller, upload_id)
    assert done is not None
    return done


def _complete(services: Services, caller: Caller, upload_id: str, wanted: CompletionIn) -> None:
    with services.database.begin() as session:
        upload = Uploads(session).pending(caller.project_id, upload_id, "completed")
        parts = Uploads(session).parts(upload_id, wanted.part_ids)
    _check_size(upload, parts, wanted.part_ids)
    keys: list[str] = []

    def replace_parts(session: Session, file_id: str) -> None:
        keys.extend(Uploads(session).complete(caller.project_id, upload_id, file_id))

    with tempfile.TemporaryFile() as file:
        stream = cast(BinaryIO, file)
        digest = _put_together(services, parts, stream)
        if wanted.md5 and wanted.md5.lower() != digest:
            message = f"The parts' MD5 is {digest}, not {wanted.md5}. Send the damaged part again, in another upload."
            raise InvalidRequestError([RequestProblem("md5", "upload_checksum_mismatch", message)])
        whole = Upload(upload.filename, upload.purpose, upload.bytes, stream, upload.file_lifetime_seconds)
        files.create(services, caller, whole, replacing=replace_parts, counted=upload.bytes)
    delete_objects(services.objects, (), keys)


def _completed(services: Services, caller: Caller, upload_id: str) -> UploadOut | None:
    with services.database.read() as session:
        done = Uploads(session).get(caller.project_id, upload_id)
        return _out(done, session.get(FileRecord, done.file_id)) if done.status == "completed" else None


def cancel(services: Services, caller: Caller, upload_id: str) -> UploadOut:
    """Give an upload up. Raises RecordNotFoundError or UploadStatusError."""
    with services.database.begin() as session:
        upload, keys = Uploads(session).cancel(caller.project_id, upload_id)
        caller.trail.write(session, upload_id)
    delete_objects(services.objects, (), keys)
    return _out(upload, None)


def _check_size(upload: UploadRecord, parts: list[UploadPartRecord], part_ids: tuple[str, ...]) -> None:
    if len(set(part_ids)) != len(part_ids):
        message = "A part is named twice. Name each once, in the order of its bytes."
        raise InvalidRequestError([RequestProblem("part_ids", "invalid_value", message)])
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        message = (
            f"The parts have {total:,} bytes, but {upload.bytes:,} were announced. Name all parts, or send the rest."
        )
        raise InvalidRequestError([RequestProblem("part_ids", "upload_size_mismatch", message)])


def _put_together(services: Services, parts: list[UploadPartRecord], stream: BinaryIO) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        try:
            for chunk in services.objects.open(part.object_key):
                digest.update(chunk)
                stream.write(chunk)
        except ObjectNotFoundError as error:
            raise ContentMissingError(f"The bytes of {part.id} are lost. Begin another upload.") from error
    stream.flush()
    return digest.hexdigest()


def _out(upload: UploadRecord, file: FileRecord | None) -> UploadOut:
    return UploadOut.model_validate(
        {
            "id": upload.id,
            "bytes": upload.bytes,
            "created_at": int(upload.created_at),
            "expires_at": int(upload.expires_at),
            "filename": upload.filename,
            "purpose": upload.purpose,
            "status": upload.status,
            "file": None if file is None else files.to_out(file),
        }
    )
