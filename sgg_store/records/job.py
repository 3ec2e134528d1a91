"""Jobs: the queue, and what a caller sees of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, attribute_keyed_dict, mapped_column, relationship

from sgg_store import ids
from sgg_store.job_state import JobStatus
from sgg_store.records.base import Record, database_now


class JobMetadataRecord(Record):
    """One pair of a job's metadata: a table of its own, so that any key can be filtered on both databases."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index(None, "key", "value"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class JobRecord(Record):
    """One fine-tuning job. `status` changes through `sgg_store.transitions` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        Index(None, "project_id", "created_at", "id"),
        Index(None, "status", "next_ring_at"),
        Index(None, "status", "priority", "created_at", "id"),
        Index(None, "project_id", "status", "priority", "created_at", "id"),
        Index(None, "base_model", "status", "finished_at"),
        Index(None, "api_key_id", "request_hash"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[JobStatus] = mapped_column(default=JobStatus.QUEUED)
    priority: Mapped[int] = mapped_column(default=0)

    base_model: Mapped[str]
    spec: Mapped[dict[str, Any]]  # a TrainingSpec
    suffix: Mapped[str | None]
    seed: Mapped[int] = mapped_column(BigInteger)
    training_file_id: Mapped[str]
    validation_file_id: Mapped[str | None]
    source_file_ids: Mapped[list[str]]
    retention_file_id: Mapped[str | None]
    start_name: Mapped[str | None]  # what the caller named to start from; one of the next two says where it is
    start_file_id: Mapped[str | None]
    start_checkpoint_id: Mapped[str | None]

    api_key_id: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str]
    origin: Mapped[dict[str, Any] | None]  # ids of the request that made it, see sgg_store.tracing

    created_at: Mapped[float] = mapped_column(default=database_now())
    queued_at: Mapped[float | None]  # once more: after an attempt, or a pause
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    epochs: Mapped[int | None]  # that and the next as the training began with them, whatever `auto` the spec has
    batch_size: Mapped[int | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    fine_tuned_model: Mapped[str | None] = mapped_column(unique=True)
    final_figures: Mapped[dict[str, Any] | None]  # of the run that was kept, which need not have told the last step
    model_deleted_at: Mapped[float | None]
    result_file_ids: Mapped[list[str]] = mapped_column(default=list)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]

    current_attempt: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())  # of the running attempt
    rings: Mapped[int] = mapped_column(default=0)  # doorbells since the job was last queued
    next_ring_at: Mapped[float] = mapped_column(default=database_now())
    last_event_seq: Mapped[int] = mapped_column(default=0)

    metadata_pairs: Mapped[dict[str, JobMetadataRecord]] = relationship(
        collection_class=attribute_keyed_dict("key"), cascade="all, delete-orphan", lazy="selectin"
    )
    user_metadata: AssociationProxy[dict[str, str]] = association_proxy(
        "metadata_pairs", "value", creator=lambda key, value: JobMetadataRecord(key=key, value=value)
    )

    @property
    def bundle_file_id(self) -> str | None:
        """The file that holds the adapter: the last one that a successful attempt published."""
        return self.result_file_ids[-1] if self.result_file_ids else None

    @property
    def model_name(self) -> str:
        """The name that the job's fine-tuned model has, or would have."""
        return self.fine_tuned_model or ids.fine_tuned_model_name(
            self.base_model, self.project_id, self.suffix, self.id
        )

    def checkpoint_name(self, step: int) -> str:
        """The name of the model as it was after `step` steps."""
        return ids.checkpoint_model_name(self.model_name, step)
