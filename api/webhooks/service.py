"""What happens to webhook endpoints."""

from __future__ import annotations

from api.auth import Caller
from api.dependencies import Services
from api.errors import InvalidRequestError
from api.schemas import CursorListOut
from api.validation import RequestProblem, broken_texts
from api.webhooks.guard import AddressRule
from api.webhooks.schemas import (
    AttemptOut,
    DeliveryOut,
    EndpointChangeIn,
    EndpointIn,
    EndpointOut,
    EndpointWithSecretOut,
)
from api.webhooks.signing import Signer
from sgg_store.records import DeliveryState, WebhookDeliveryRecord, WebhookEndpointRecord
from sgg_store.webhooks import Webhooks


def create(services: Services, caller: Caller, wanted: EndpointIn) -> EndpointWithSecretOut:
    """Add an endpoint. Raises InvalidRequestError or TooManyEndpointsError."""
    _check(services, wanted)
    with services.database.begin() as session:
        endpoint = Webhooks(session).add(caller.project_id, wanted.url, wanted.events, wanted.description)
        endpoint.enabled = wanted.enabled
        caller.trail.write(session, endpoint.id)  # without the address, which may hold a secret of its own
    return _with_secret(services, endpoint)


def list_all(services: Services, caller: Caller) -> CursorListOut[EndpointOut]:
    """Give all endpoints of the project; there are few."""
    with services.database.read() as session:
        found = Webhooks(session).list_all(caller.project_id)
    return CursorListOut[EndpointOut](data=[_out(endpoint) for endpoint in found], has_more=False)


def retrieve(services: Services, caller: Caller, endpoint_id: str) -> EndpointOut:
    """Give one endpoint. Raises RecordNotFoundError."""
    with services.database.read() as session:
        return _out(Webhooks(session).get(caller.project_id, endpoint_id))


def change(services: Services, caller: Caller, endpoint_id: str, wanted: EndpointChangeIn) -> EndpointOut:
    """Change what is named in the request. Raises RecordNotFoundError or InvalidRequestError."""
    _check(services, wanted)
    with services.database.begin() as session:
        endpoint = Webhooks(session).get(caller.project_id, endpoint_id)
        for name, value in wanted.model_dump(exclude_none=True).items():
            setattr(endpoint, name, list(value) if name == "events" else value)
        caller.trail.write(session, endpoint_id)
        return _out(endpoint)


def rotate(services: Services, caller: Caller, endpoint_id: str) -> EndpointWithSecretOut:
    """Give the endpoint a new secret; the old one signs as well for a day. Raises RecordNotFoundError."""
    with services.database.begin() as session:
        endpoint = Webhooks(session).rotate(caller.project_id, endpoint_id)
        caller.trail.write(session, endpoint_id)
        return _with_secret(services, endpoint)


def delete(services: Services, caller: Caller, endpoint_id: str) -> None:
    """Delete an endpoint and its deliveries. Raises RecordNotFoundError."""
    with services.database.begin() as session:
        Webhooks(session).delete(caller.project_id, endpoint_id)
        caller.trail.write(session, endpoint_id)


def list_deliveries(
    services: Services, caller: Caller, endpoint_id: str, *, after: str | None, limit: int
) -> CursorListOut[DeliveryOut]:
    """Give one page of an endpoint's deliveries, newest first. Raises RecordNotFoundError."""
    with services.database.read() as session:
        page = Webhooks(session).deliveries(caller.project_id, endpoint_id, after=after, limit=limit)
    return CursorListOut[DeliveryOut](data=[_delivery_out(one) for one in page.items], has_more=page.has_more)


def resend(services: Services, caller: Caller, endpoint_id: str, delivery_id: str) -> DeliveryOut:
    """Send a delivery again. Raises RecordNotFoundError, or DeliveryPendingError."""
    with services.database.begin() as session:
        delivery = Webhooks(session).resend(caller.project_id, endpoint_id, delivery_id)
        caller.trail.write(session, delivery_id)
        return _delivery_out(delivery)


def _check(services: Services, wanted: EndpointChangeIn) -> None:
    problems = broken_texts(wanted.model_dump(mode="json"))
    problem = AddressRule(services.settings.webhook_private_addresses).problem_of(wanted.url) if wanted.url else None
    if problem is not None:
        problems.append(RequestProblem("url", "invalid_value", problem))
    if problems:
        raise InvalidRequestError(problems)


def _out(endpoint: WebhookEndpointRecord) -> EndpointOut:
    return EndpointOut(
        id=endpoint.id,
        url=endpoint.url,
        events=endpoint.events,
        description=endpoint.description,
        enabled=endpoint.enabled,
        created_at=int(endpoint.created_at),
    )


def _with_secret(services: Services, endpoint: WebhookEndpointRecord) -> EndpointWithSecretOut:
    secret = Signer(services.key_secret).secret(endpoint.id, endpoint.secret_version)
    return EndpointWithSecretOut(**_out(endpoint).model_dump(), secret=secret)


def _delivery_out(delivery: WebhookDeliveryRecord) -> DeliveryOut:
    return DeliveryOut(
        id=delivery.id,
        event_id=delivery.event_id,
        type=delivery.type,
        job_id=delivery.job_id,
        created_at=int(delivery.created_at),
        state=delivery.state.value,
        next_attempt_at=int(delivery.next_attempt_at) if delivery.state is DeliveryState.PENDING else None,
        attempts=[AttemptOut.model_validate(entry | {"at": int(entry["at"])}) for entry in delivery.log],
    )
