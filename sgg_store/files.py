"""Rows of files. Their bytes are put into the object store before the row is added, and removed after it is deleted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Text, cast, or_, select
from sqlalchemy.orm import Session

from sgg_store.errors import FileInUseError, RecordNotFoundError
from sgg_store.job_state import ACTIVE
from sgg_store.pages import Order, Page, read_page
from sgg_store.records import FileRecord, JobRecord


class Files:
    """The files of projects. A file of another project is not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(
        self,
        *,
        file_id: str,
        project_id: str,
        filename: str,
        purpose: str,
        bytes: int,
        sha256: str,
        object_key: str,
        facts: dict[str, Any] | None = None,
        expires_at: float | None = None,
    ) -> FileRecord:
        """Add the row of a file whose bytes lie complete under `object_key`. Its status is `processed`.

        Make `file_id` with `ids.new_id("file-")` and the key with `objects.file_key`.
        """
        file = FileRecord(
            id=file_id,
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            bytes=bytes,
            sha256=sha256,
            object_key=object_key,
            facts=facts,
            expires_at=expires_at,
        )
        self.session.add(file)
        self.session.flush()
        return file

    def get(self, project_id: str, file_id: str) -> FileRecord:
        """The file's row. Raises RecordNotFoundError."""
        query = select(FileRecord).where(FileRecord.id == file_id, FileRecord.project_id == project_id)
        file = self.session.scalars(query).one_or_none()
        if file is None:
            raise RecordNotFoundError("file", file_id)
        return file

    def hold(self, project_id: str, file_ids: Collection[str]) -> dict[str, FileRecord]:
        """The rows of several files by id, kept from being deleted until this transaction ends.

        Raises RecordNotFoundError for the first that is missing.
        """
        query = (
            select(FileRecord)
            .where(FileRecord.id.in_(file_ids), FileRecord.project_id == project_id)
            .order_by(FileRecord.id)
            .with_for_update(read=True)
        )
        found = {file.id: file for file in self.session.scalars(query)}
        for file_id in file_ids:
            if file_id not in found:
                raise RecordNotFoundError("file", file_id)
        return found

    def list_page(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int = 10_000,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[FileRecord]:
        """The project's files by time of creation. Raises CursorNotFoundError."""
        query = select(FileRecord).where(FileRecord.project_id == project_id)
        if purpose is not None:
            query = query.where(FileRecord.purpose == purpose)
        return read_page(
            self.session,
            "file",
            query,
            (FileRecord.created_at, FileRecord.id),
            after=None if after is None else FileRecord.id == after,
            cursor=after,
            limit=limit,
            order=order,
        )

    def delete(self, project_id: str, file_id: str) -> FileRecord:
        """Delete the file's row and give it back, so that the caller can delete the object after the commit.

        Raises RecordNotFoundError, or FileInUseError if a job that is not finished uses the file.
        """
        query = select(FileRecord).where(FileRecord.id == file_id, FileRecord.project_id == project_id)
        file = self.session.scalars(query.with_for_update()).one_or_none()
        if file is None:
            raise RecordNotFoundError("file", file_id)
        users = self.jobs_using(file_id)
        if users:
            raise FileInUseError(file_id, tuple(users))
        self.session.delete(file)
        self.session.flush()
        return file

    def jobs_using(self, file_id: str) -> Sequence[str]:
        """Ids of the queued and running jobs that train on, validate with, or draw gradients from this file."""
        query = select(JobRecord.id).where(
            JobRecord.status.in_(ACTIVE),
            or_(
                JobRecord.training_file_id == file_id,
                JobRecord.validation_file_id == file_id,
                cast(JobRecord.source_file_ids, Text).contains(f'"{file_id}"', autoescape=True),
            ),
        )
        return list(self.session.scalars(query.order_by(JobRecord.created_at)))
