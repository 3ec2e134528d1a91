"""Addresses that want to hear of jobs, and the deliveries to them: at least once, in each job's order, logged."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from sgg_store import ids
from sgg_store.errors import DeliveryPendingError, RecordNotFoundError, TooManyEndpointsError
from sgg_store.pages import Page, read_page
from sgg_store.projects import take_turns
from sgg_store.records import DeliveryState, WebhookDeliveryRecord, WebhookEndpointRecord, database_now

MOST_ENDPOINTS = 20
FORGOTTEN_SECONDS = 30 * 86_400.0  # after a delivery is through, or was given up
PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)  # seconds between attempts


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that was taken to be sent now, as attempt number `attempt`. The records are detached."""

    delivery: WebhookDeliveryRecord
    endpoint: WebhookEndpointRecord
    attempt: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went. `status` is the answer's, if there was one; otherwise `error` says why there was none."""

    status: int | None
    error: str | None
    seconds: float

    @property
    def taken(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300


class Webhooks:
    """The webhook endpoints of projects, and their deliveries. Those of another project are not found."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, project_id: str, url: str, events: Collection[str], description: str | None) -> WebhookEndpointRecord:
        """Add an address. Raises TooManyEndpointsError."""
        take_turns(self.session, project_id)
        count = select(func.count()).where(WebhookEndpointRecord.project_id == project_id)
        if self.session.execute(count).scalar_one() >= MOST_ENDPOINTS:
            raise TooManyEndpointsError(MOST_ENDPOINTS)
        endpoint = WebhookEndpointRecord(
            id=ids.new_id("whep_"), project_id=project_id, url=url, events=sorted(events), description=description
        )
        self.session.add(endpoint)
        self.session.flush()
        return endpoint

    def get(self, project_id: str, endpoint_id: str) -> WebhookEndpointRecord:
        """The endpoint. Raises RecordNotFoundError."""
        query = select(WebhookEndpointRecord).where(
            WebhookEndpointRecord.id == endpoint_id, WebhookEndpointRecord.project_id == project_id
        )
        endpoint = self.session.scalars(query).one_or_none()
        if endpoint is None:
            raise RecordNotFoundError("webhook endpoint", endpoint_id)
        return endpoint

    def list_all(self, project_id: str) -> list[WebhookEndpointRecord]:
        """The project's endpoints, newest first."""
        query = select(WebhookEndpointRecord).where(WebhookEndpointRecord.project_id == project_id)
        return list(self.session.scalars(query.order_by(WebhookEndpointRecord.created_at.desc())))

    def rotate(self, project_id: str, endpoint_id: str) -> WebhookEndpointRecord:
        """Give the endpoint a new secret. Raises RecordNotFoundError."""
        endpoint = self.get(project_id, endpoint_id)
        endpoint.secret_version += 1
        endpoint.rotated_at = self.session.execute(select(database_now())).scalar_one()
        self.session.flush()
        return endpoint

    def delete(self, project_id: str, endpoint_id: str) -> None:
        """Delete the endpoint and its deliveries. Raises RecordNotFoundError."""
        self.session.delete(self.get(project_id, endpoint_id))
        self.session.flush()

    def deliveries(
        self, project_id: str, endpoint_id: str, *, after: str | None = None, limit: int = 20
    ) -> Page[WebhookDeliveryRecord]:
        """The endpoint's deliveries, newest first. Raises RecordNotFoundError or CursorNotFoundError."""
        self.get(project_id, endpoint_id)
        return read_page(
            self.session,
            "delivery",
            select(WebhookDeliveryRecord).where(WebhookDeliveryRecord.endpoint_id == endpoint_id),
            (WebhookDeliveryRecord.created_at, WebhookDeliveryRecord.id),
            after=after,
            limit=limit,
            order="desc",
        )

    def resend(self, project_id: str, endpoint_id: str, delivery_id: str) -> WebhookDeliveryRecord:
        """Send a delivery again, now, with all its attempts before it. Raises RecordNotFoundError.

        Raises DeliveryPendingError while it is being sent anyway.
        """
        self.get(project_id, endpoint_id)
        delivery = self.session.get(WebhookDeliveryRecord, delivery_id, with_for_update=True)
        if delivery is None or delivery.endpoint_id != endpoint_id:
            raise RecordNotFoundError("delivery", delivery_id)
        if delivery.state is DeliveryState.PENDING:
            raise DeliveryPendingError(delivery_id)
        delivery.state, delivery.attempts = DeliveryState.PENDING, 0
        delivery.next_attempt_at = self.session.execute(select(database_now())).scalar_one()
        self.session.flush()
        return delivery

    def drop_old(self) -> None:
        """Forget deliveries that ended long ago."""
        old = delete(WebhookDeliveryRecord).where(
            WebhookDeliveryRecord.state.in_((DeliveryState.DELIVERED, DeliveryState.FAILED)),
            WebhookDeliveryRecord.next_attempt_at < database_now() - FORGOTTEN_SECONDS,
        )
        self.session.execute(old.execution_options(synchronize_session=False))

    def waiting_projects(self, busy: Collection[str]) -> list[str]:
        """The projects that have something to send now, to endpoints that are not `busy`."""
        query = select(WebhookEndpointRecord.project_id).join(
            WebhookDeliveryRecord, WebhookDeliveryRecord.endpoint_id == WebhookEndpointRecord.id
        )
        return list(self.session.scalars(query.where(*_to_be_sent(busy)).distinct()))

    def claim_due(self, project_id: str, busy: Collection[str], hold_seconds: float) -> Due | None:
        """Take the project's oldest delivery that is to be sent now to an endpoint that is not `busy`, if there is one.

        Endpoints that did not take their last one come after the others, whom they would else hold up.

        A job's events go to an endpoint in their order: none before an earlier one is through or given up. For
        `hold_seconds` nobody else takes it; a sender that died by then is followed by another attempt.
        """
        row, other = WebhookDeliveryRecord, aliased(WebhookDeliveryRecord)
        failing = select(1).where(
            other.endpoint_id == row.endpoint_id, other.state == DeliveryState.PENDING, other.attempts > 0
        )
        query = (
            select(row, WebhookEndpointRecord)
            .join(WebhookEndpointRecord, WebhookEndpointRecord.id == row.endpoint_id)
            .where(WebhookEndpointRecord.project_id == project_id, *_to_be_sent(busy))
            .order_by(failing.exists(), row.created_at, row.id)
            .limit(1)
            .with_for_update(of=row, skip_locked=True)
        )
        taken = self.session.execute(query).one_or_none()
        if taken is None:
            return None
        delivery, endpoint = taken
        delivery.attempts += 1
        delivery.next_attempt_at = self.session.execute(select(database_now() + hold_seconds)).scalar_one()
        self.session.flush()
        return Due(delivery, endpoint, delivery.attempts)

    def record(self, due: Due, outcome: Outcome) -> None:
        """Note how an attempt went: it is through, or tried again after a pause, or given up.

        Does nothing if another attempt has begun meanwhile, or the endpoint is gone.
        """
        pause = PAUSES[due.attempt - 1] if due.attempt <= len(PAUSES) else None
        state = DeliveryState.FAILED if pause is None else DeliveryState.PENDING
        now = self.session.execute(select(database_now())).scalar_one()
        entry: dict[str, Any] = {
            "at": now - outcome.seconds,
            "seconds": round(outcome.seconds, 3),
            "status": outcome.status,
            "error": outcome.error,
        }
        self.session.execute(
            update(WebhookDeliveryRecord)
            .where(
                WebhookDeliveryRecord.id == due.delivery.id,
                WebhookDeliveryRecord.attempts == due.attempt,
                WebhookDeliveryRecord.state == DeliveryState.PENDING,
            )
            .values(
                state=DeliveryState.DELIVERED if outcome.taken else state,
                next_attempt_at=now + (pause or 0.0) * random.uniform(0.8, 1.2),
                log=[*due.delivery.log, entry][-50:],
            )
            .execution_options(synchronize_session=False)
        )


def _to_be_sent(busy: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    """Of deliveries joined with endpoints, those that are due, with no earlier one of their job still pending."""
    row, earlier = WebhookDeliveryRecord, aliased(WebhookDeliveryRecord)
    waits = select(1).where(
        earlier.endpoint_id == row.endpoint_id,
        earlier.job_id == row.job_id,
        earlier.state == DeliveryState.PENDING,
        tuple_(earlier.created_at, earlier.id) < tuple_(row.created_at, row.id),
    )
    return (
        row.state == DeliveryState.PENDING,
        row.next_attempt_at <= database_now(),
        row.endpoint_id.not_in(busy),
        WebhookEndpointRecord.enabled.is_(True),
        ~waits.exists(),
    )
