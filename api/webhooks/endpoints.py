"""/v1/webhook_endpoints: who is told of jobs, and what became of it."""

from __future__ import annotations

from api.dependencies import JobsReader, JobsWriter, ServicesDep
from api.routers import make_router
from api.schemas import After, CursorListOut, DeletedOut, PageLimit
from api.webhooks import service
from api.webhooks.schemas import DeliveryOut, EndpointChangeIn, EndpointIn, EndpointOut, EndpointWithSecretOut

router = make_router("/v1/webhook_endpoints", "webhooks")


@router.post("")
def create_endpoint(body: EndpointIn, services: ServicesDep, caller: JobsWriter) -> EndpointWithSecretOut:
    """Add an address that is told of the project's jobs. The answer holds its secret, this once."""
    return service.create(services, caller, body)


@router.get("")
def list_endpoints(services: ServicesDep, caller: JobsReader) -> CursorListOut[EndpointOut]:
    """List endpoints, newest first."""
    return service.list_all(services, caller)


@router.get("/{endpoint_id}")
def retrieve_endpoint(endpoint_id: str, services: ServicesDep, caller: JobsReader) -> EndpointOut:
    """Give one endpoint."""
    return service.retrieve(services, caller, endpoint_id)


@router.post("/{endpoint_id}")
def change_endpoint(endpoint_id: str, body: EndpointChangeIn, services: ServicesDep, caller: JobsWriter) -> EndpointOut:
    """Change an endpoint's address, events, description, or whether it is enabled."""
    return service.change(services, caller, endpoint_id, body)


@router.delete("/{endpoint_id}")
def delete_endpoint(endpoint_id: str, services: ServicesDep, caller: JobsWriter) -> DeletedOut:
    """Delete an endpoint and the log of its deliveries."""
    service.delete(services, caller, endpoint_id)
    return DeletedOut(id=endpoint_id, object="webhook_endpoint")


@router.post("/{endpoint_id}/rotate_secret")
def rotate_secret(endpoint_id: str, services: ServicesDep, caller: JobsWriter) -> EndpointWithSecretOut:
    """Make a new secret. For a day, deliveries are signed with the old one as well."""
    return service.rotate(services, caller, endpoint_id)


@router.get("/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: str, services: ServicesDep, caller: JobsReader, after: After = None, limit: PageLimit = 20
) -> CursorListOut[DeliveryOut]:
    """List what the endpoint was told, newest first, with every attempt."""
    return service.list_deliveries(services, caller, endpoint_id, after=after, limit=limit)


@router.post("/{endpoint_id}/deliveries/{delivery_id}/resend")
def resend_delivery(endpoint_id: str, delivery_id: str, services: ServicesDep, caller: JobsWriter) -> DeliveryOut:
    """Send a delivery again that is delivered or given up."""
    return service.resend(services, caller, endpoint_id, delivery_id)
