"""Webhooks: who wants to hear of jobs, and what each of them is told."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sgg_store.records.base import Record, database_now


class DeliveryState(enum.StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class WebhookEndpointRecord(Record):
    """One address. Its secret is derived from the server's own (see api/webhooks/signing.py), so none is kept here."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    url: Mapped[str]
    events: Mapped[list[str]]
    description: Mapped[str | None]
    enabled: Mapped[bool] = mapped_column(default=True)
    secret_version: Mapped[int] = mapped_column(default=1)
    rotated_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=database_now())


class WebhookDeliveryRecord(Record):
    """One event for one address: written in the transaction of what it tells of, then sent until it is taken."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(None, "state", "next_attempt_at"),
        Index(None, "endpoint_id", "job_id", "state"),
        Index(None, "endpoint_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_id: Mapped[str]  # the same for all addresses, and in all attempts: receivers know repeats by it
    job_id: Mapped[str]  # which may be deleted before its deliveries have come through
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=database_now())
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[float] = mapped_column(default=database_now())
    log: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)  # of each attempt: when, how long, outcome
