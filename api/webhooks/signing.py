"""Secrets and signatures of webhooks, as the Standard Webhooks specification and OpenAI's clients have them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from sgg_store.records import WebhookEndpointRecord

OVERLAP_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Signer:
    """Derives every endpoint's secret from the server's own, so that the database holds none that could be stolen."""

    server_secret: bytes

    def secret(self, endpoint_id: str, version: int) -> str:
        """The endpoint's secret, `whsec_...`."""
        return f"whsec_{base64.b64encode(self._key(endpoint_id, version)).decode()}"

    def headers(self, endpoint: WebhookEndpointRecord, event_id: str, body: bytes, now: float) -> dict[str, str]:
        """The headers that prove a body. For a day after a rotation, the secret before it proves it as well."""
        versions = [endpoint.secret_version]
        if endpoint.rotated_at is not None and now < endpoint.rotated_at + OVERLAP_SECONDS:
            versions.append(endpoint.secret_version - 1)
        signed = f"{event_id}.{int(now)}.".encode() + body
        signatures = [self._signature(self._key(endpoint.id, version), signed) for version in versions]
        return {
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(signatures),
        }

    def _key(self, endpoint_id: str, version: int) -> bytes:
        return hmac.digest(self.server_secret, f"webhook {endpoint_id} {version}".encode(), hashlib.sha256)

    @staticmethod
    def _signature(key: bytes, signed: bytes) -> str:
        return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"
