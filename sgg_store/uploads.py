"""Uploads in parts: pending for an hour, then a file, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from sgg_store import ids
from sgg_store.errors import (
    RecordNotFoundError,
    TooManyPartsError,
    TooManyUploadsError,
    UploadSizeError,
    UploadStatusError,
)
from sgg_store.objects import upload_part_key
from sgg_store.projects import take_turns
from sgg_store.records import UploadPartRecord, UploadRecord, database_now

LIFETIME_SECONDS = 3600.0
REMEMBERED_SECONDS = 24 * 3600.0
MOST_PENDING = 20
MOST_PARTS = 1000  # of an upload, those that were sent again among them
SPARE = 2  # a client that got no answer sends a part again, and names only one of the two at the end


class Uploads:
    """The uploads of projects. One of another project is not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def create(
        self, project_id: str, filename: str, purpose: str, bytes: int, file_lifetime_seconds: int | None
    ) -> UploadRecord:
        """Begin an upload. Raises TooManyUploadsError."""
        take_turns(self.session, project_id)
        pending = select(func.count()).where(
            UploadRecord.project_id == project_id,
            UploadRecord.status == "pending",
            UploadRecord.expires_at > database_now(),
        )
        if self.session.execute(pending).scalar_one() >= MOST_PENDING:
            raise TooManyUploadsError(MOST_PENDING)
        upload = UploadRecord(
            id=ids.new_id("upload_"),
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            bytes=bytes,
            file_lifetime_seconds=file_lifetime_seconds,
            expires_at=self.session.execute(select(database_now() + LIFETIME_SECONDS)).scalar_one(),
        )
        self.session.add(upload)
        self.session.flush()
        return upload

    def get(self, project_id: str, upload_id: str, *, locked: bool = False) -> UploadRecord:
        """The upload. Raises RecordNotFoundError."""
        query = select(UploadRecord).where(UploadRecord.id == upload_id, UploadRecord.project_id == project_id)
        upload = self.session.scalars(query.with_for_update() if locked else query).one_or_none()
        if upload is None:
            raise RecordNotFoundError("upload", upload_id)
        return upload

    def pending(self, project_id: str, upload_id: str, action: str) -> UploadRecord:
        """The upload, which nobody else changes until this transaction ends.

        Raises RecordNotFoundError, or UploadStatusError if it is completed, cancelled or expired.
        """
        upload = self.get(project_id, upload_id, locked=True)
        now = self.session.execute(select(database_now())).scalar_one()
        status = "expired" if upload.status == "pending" and upload.expires_at <= now else upload.status
        if status != "pending":
            raise UploadStatusError(upload_id, status, action)
        return upload

    def expect_part(self, project_id: str, upload_id: str, bytes: int) -> None:
        """Check that the upload takes a part of so many bytes, now and until this transaction ends.

        Raises RecordNotFoundError, UploadStatusError, TooManyPartsError, or UploadSizeError if it is too much.
        """
        upload = self.pending(project_id, upload_id, "added to")
        before = select(func.count(), func.coalesce(func.sum(UploadPartRecord.bytes), 0)).where(
            UploadPartRecord.upload_id == upload_id
        )
        count, bytes_before = self.session.execute(before).one()
        if count >= MOST_PARTS:
            raise TooManyPartsError(upload_id, MOST_PARTS)
        total = int(bytes_before) + bytes
        if bytes > upload.bytes or total > SPARE * upload.bytes:
            raise UploadSizeError(upload_id, upload.bytes, total)

    def add_part(self, project_id: str, upload_id: str, part_id: str, bytes: int) -> UploadPartRecord:
        """Add a part whose bytes lie under its key. Raises what `expect_part` raises."""
        self.expect_part(project_id, upload_id, bytes)
        part = UploadPartRecord(
            id=part_id, upload_id=upload_id, bytes=bytes, object_key=upload_part_key(upload_id, part_id)
        )
        self.session.add(part)
        self.session.flush()
        return part

    def parts(self, upload_id: str, part_ids: Sequence[str]) -> list[UploadPartRecord]:
        """These parts in this order. Raises RecordNotFoundError for the first that the upload has not."""
        query = select(UploadPartRecord).where(UploadPartRecord.upload_id == upload_id)
        known = {part.id: part for part in self.session.scalars(query)}
        for part_id in part_ids:
            if part_id not in known:
                raise RecordNotFoundError("part of this upload", part_id)
        return [known[part_id] for part_id in part_ids]

    def complete(self, project_id: str, upload_id: str, file_id: str) -> list[str]:
        """Note that the upload has become a file; gives its parts' keys, to be deleted. Raises UploadStatusError."""
        upload = self.pending(project_id, upload_id, "completed")
        upload.status, upload.file_id = "completed", file_id
        return self._drop_parts(upload_id)

    def cancel(self, project_id: str, upload_id: str) -> tuple[UploadRecord, list[str]]:
        """Give the upload up; gives its parts' keys, to be deleted. Raises UploadStatusError."""
        upload = self.pending(project_id, upload_id, "cancelled")
        upload.status = "cancelled"
        return upload, self._drop_parts(upload_id)

    def drop_expired(self) -> None:
        """Forget the parts of uploads whose time is over, and uploads that ended long ago. The objects are garbage."""
        over = select(UploadRecord.id).where(
            or_(UploadRecord.expires_at <= database_now(), UploadRecord.status != "pending")
        )
        old = UploadRecord.expires_at <= database_now() - REMEMBERED_SECONDS
        for statement in (
            delete(UploadPartRecord).where(UploadPartRecord.upload_id.in_(over)),
            delete(UploadRecord).where(old),
        ):
            self.session.execute(statement.execution_options(synchronize_session=False))

    def _drop_parts(self, upload_id: str) -> list[str]:
        parts = list(self.session.scalars(select(UploadPartRecord).where(UploadPartRecord.upload_id == upload_id)))
        for part in parts:
            self.session.delete(part)
        self.session.flush()
        return [part.object_key for part in parts]
