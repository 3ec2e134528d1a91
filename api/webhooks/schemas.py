"""Webhook endpoints and deliveries in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Identified, Out
from api.webhooks.guard import MAX_URL_CHARS
from sgg_store.announcements import EVENT_TYPES

EventType = Literal[
    "fine_tuning.job.started",
    "fine_tuning.job.checkpoint",
    "fine_tuning.job.paused",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
]


class EndpointChangeIn(BaseModel):
    """What may be changed of an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)] | None = None
    events: Annotated[tuple[EventType, ...], Field(min_length=1)] | None = None
    """What to be told of."""
    description: Annotated[str, Field(max_length=200)] | None = None
    enabled: bool | None = None
    """A disabled endpoint is told nothing of what happens meanwhile, and what was pending waits."""


class EndpointIn(EndpointChangeIn):
    """A request for an endpoint."""

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]
    events: Annotated[tuple[EventType, ...], Field(min_length=1)] = EVENT_TYPES  # type: ignore[assignment]
    enabled: bool = True


class EndpointOut(Identified):
    """A webhook endpoint."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str
    events: list[str]
    description: str | None
    enabled: bool
    created_at: int


class EndpointWithSecretOut(EndpointOut):
    """A new endpoint, or one with a new secret."""

    secret: str
    """Proves that a delivery comes from here. It is shown this once."""


class AttemptOut(Out):
    """One attempt to deliver."""

    at: int
    seconds: float
    status: int | None
    error: str | None
    """Why there was no answer."""


class DeliveryOut(Identified):
    """One event for one endpoint."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_id: str
    """The header `webhook-id`, the same in all attempts and for all endpoints."""
    type: str
    job_id: str
    created_at: int
    state: Literal["pending", "delivered", "failed"]
    next_attempt_at: int | None
    """Null unless it is pending."""
    attempts: list[AttemptOut]
