"""What the HTTP edge can be told by its environment, on top of the store's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sgg_store.settings import StoreSettings


class ApiSettings(StoreSettings):
    """Settings of the HTTP edge. Sizes are in bytes, durations in seconds."""

    max_upload_bytes: Annotated[int, Field(ge=1)] = 50 * 2**20
    """Largest file that is accepted."""
    max_json_bytes: Annotated[int, Field(ge=1024)] = 2**20
    """Largest body of any other request."""
    duplicate_window_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How long a client's own retry of a job creation gets the job that its first try made."""
