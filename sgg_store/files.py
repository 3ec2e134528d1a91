"""Rows of files. Their bytes are put into the object store before the row is added, and removed after it is deleted."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, Text, bindparam, cast, func, or_, select, true, union_all
from sqlalchemy.orm import Session, defer

from sgg_store.checkpoints import named_for
from sgg_store.errors import FileInUseError, FileOfModelError, RecordNotFoundError
from sgg_store.job_state import ACTIVE
from sgg_store.pages import Order, Page, read_page
from sgg_store.records import CheckpointPermissionRecord, CheckpointRecord, FileRecord, JobRecord, database_now


class Files:
    """The files of projects. A file of another project is not found, nor is one whose time is over."""

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
        lifetime_seconds: int | None = None,
    ) -> FileRecord:
        """Add the row of a file whose bytes lie complete under `object_key`. Its status is `processed`.

        Make `file_id` with `ids.new_id("file-")` and the key with `objects.file_key`.
        """
        if lifetime_seconds is not None:
            expires_at = self.session.execute(select(database_now() + lifetime_seconds)).scalar_one()
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
        """The file's row, also if it is of a checkpoint that the project may use. Raises RecordNotFoundError."""
        named = {"file_id": file_id, "project_id": project_id}
        file = self.session.scalars(_one_file(), named).one_or_none()
        if file is None:
            raise RecordNotFoundError("file", file_id)
        return file

    def hold(self, project_id: str, file_ids: Collection[str]) -> None:
        """Keep several files from being deleted until this transaction ends.

        Raises RecordNotFoundError for the first that is missing.
        """
        found = set(self.session.scalars(_held_files(), {"file_ids": list(file_ids), "project_id": project_id}))
        for file_id in file_ids:
            if file_id not in found:
                raise RecordNotFoundError("file", file_id)

    def list_page(
        self,
        project_id: str,
        *,
        after: str | None = None,
        limit: int = 10_000,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[FileRecord]:
        """The project's files by time of creation, without their facts (`facts_of`). Raises CursorNotFoundError."""
        query = select(FileRecord).where(FileRecord.project_id == project_id)
        query = query.options(defer(FileRecord.facts, raiseload=True))
        if purpose is not None:
            query = query.where(FileRecord.purpose == purpose)
        return read_page(
            self.session,
            "file",
            query,
            (FileRecord.created_at, FileRecord.id),
            only=(_alive(),),  # the file that the page begins after may have expired
            after=after,
            limit=limit,
            order=order,
        )

    def facts_of(self, file_ids: Collection[str]) -> dict[str, dict[str, Any] | None]:
        """What is known of files, by their ids; those that are gone are left out."""
        found = self.session.execute(select(FileRecord.id, FileRecord.facts).where(FileRecord.id.in_(file_ids)))
        return dict(found.all())

    def delete(self, project_id: str, file_id: str) -> FileRecord:
        """Delete the file's row and give it back, so that the caller can delete the object after the commit.

        With a file of a damaged checkpoint goes the checkpoint.
        Raises RecordNotFoundError, FileOfModelError if a model would be lost with it, or FileInUseError if a job that
        is not finished uses the file.
        """
        named = (FileRecord.id == file_id, FileRecord.project_id == project_id, _alive())
        of_file = select(CheckpointRecord).join(FileRecord, FileRecord.checkpoint_id == CheckpointRecord.id)
        held = of_file.where(*named).with_for_update(of=CheckpointRecord)  # before the file, as when jobs are deleted
        checkpoint = self.session.scalars(held).one_or_none()
        file = self.session.scalars(select(FileRecord).where(*named).with_for_update()).one_or_none()
        if file is None:
            raise RecordNotFoundError("file", file_id)
        model = self._model_of(file, checkpoint)
        if model is not None:
            raise FileOfModelError(file_id, model)
        users = self.jobs_using(file_id) if checkpoint is None else self.jobs_needing(checkpoint)
        if users:
            raise FileInUseError(file_id, tuple(users))
        self.session.delete(file if checkpoint is None else checkpoint)
        self.session.flush()
        return file

    def expired(self) -> list[FileRecord]:
        """Files whose time is over, except those that an unfinished job uses."""
        return list(self.session.scalars(self._expired_unused()))

    def drop_expired(self, limit: int) -> list[FileRecord]:
        """Delete the rows of up to `limit` expired files; their objects are for the caller, after the commit.

        One that a job being created holds is left for the next time.
        """
        query = self._expired_unused()
        chosen = self.session.scalars(query.limit(limit).with_for_update(skip_locked=True, of=FileRecord)).all()
        # asked again now that they are held: while they were chosen, a job on one of them may have been committed
        dropped = list(self.session.scalars(query.where(FileRecord.id.in_([file.id for file in chosen]))))
        for file in dropped:
            self.session.delete(file)
        self.session.flush()
        return dropped

    def jobs_using(self, file_id: str) -> Sequence[str]:
        """Ids of the unfinished jobs that train on, validate with, draw gradients from, or start from this file."""
        query = select(JobRecord.id).where(
            JobRecord.status.in_(ACTIVE),
            or_(
                JobRecord.training_file_id == file_id,
                JobRecord.validation_file_id == file_id,
                JobRecord.start_file_id == file_id,
                JobRecord.retention_file_id == file_id,
                cast(JobRecord.source_file_ids, Text).contains(f'"{file_id}"', autoescape=True),
            ),
        )
        return list(self.session.scalars(query.order_by(JobRecord.created_at)))

    def jobs_needing(self, checkpoint: CheckpointRecord) -> Sequence[str]:
        """Names of the unfinished jobs that made this checkpoint, or start from it."""
        users = or_(JobRecord.id == checkpoint.job_id, JobRecord.start_checkpoint_id == checkpoint.id)
        query = select(JobRecord.id, JobRecord.project_id).where(JobRecord.status.in_(ACTIVE), users)
        return named_for(checkpoint.project_id, self.session.execute(query.order_by(JobRecord.created_at)))

    def _model_of(self, file: FileRecord, checkpoint: CheckpointRecord | None) -> str | None:
        """Name of the model that this file is the adapter of, or a part of it."""
        if checkpoint is not None:
            job = self.session.get_one(JobRecord, checkpoint.job_id)
            return None if checkpoint.damaged else job.checkpoint_name(checkpoint.step)
        makers = select(JobRecord).where(
            JobRecord.project_id == file.project_id,
            JobRecord.fine_tuned_model.is_not(None),
            JobRecord.model_deleted_at.is_(None),
            cast(JobRecord.result_file_ids, Text).contains(f'"{file.id}"', autoescape=True),
        )
        maker = self.session.scalars(makers).one_or_none()
        return maker.fine_tuned_model if maker is not None and maker.bundle_file_id == file.id else None

    def _expired_unused(self) -> Select[FileRecord]:
        """Expired files that no unfinished job uses as in `jobs_using`; the jobs are read once for all files."""
        is_postgres = self.session.get_bind().dialect.name == "postgresql"
        elements = func.json_array_elements_text if is_postgres else func.json_each
        source = elements(JobRecord.source_file_ids).table_valued("value")
        columns = (
            JobRecord.training_file_id,
            JobRecord.validation_file_id,
            JobRecord.start_file_id,
            JobRecord.retention_file_id,
        )
        active = JobRecord.status.in_(ACTIVE)
        named = [select(column.label("file_id")).where(active) for column in columns]
        named.append(select(source.c.value.label("file_id")).select_from(JobRecord).join(source, true()).where(active))
        used = union_all(*named).subquery()
        query = select(FileRecord).outerjoin(used, used.c.file_id == FileRecord.id)
        expired = FileRecord.expires_at <= database_now()
        return query.where(expired, used.c.file_id.is_(None)).order_by(FileRecord.expires_at)


def _alive() -> ColumnElement[bool]:
    return or_(FileRecord.expires_at.is_(None), FileRecord.expires_at > database_now())


@functools.cache  # to build a query costs more than to run it
def _one_file() -> Select[FileRecord]:
    project_id: BindParameter[str] = bindparam("project_id")
    permitted = select(CheckpointPermissionRecord.checkpoint_id).where(
        CheckpointPermissionRecord.project_id == project_id
    )
    readable = or_(FileRecord.project_id == project_id, FileRecord.checkpoint_id.in_(permitted))
    return select(FileRecord).where(FileRecord.id == bindparam("file_id"), readable, _alive())


@functools.cache
def _held_files() -> Select[str]:
    named = FileRecord.id.in_(bindparam("file_ids", expanding=True))
    query = select(FileRecord.id).where(named, FileRecord.project_id == bindparam("project_id"), _alive())
    return query.order_by(FileRecord.id).with_for_update(read=True)
