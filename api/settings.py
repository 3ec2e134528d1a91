"""What the HTTP edge can be told by its environment, on top of the store's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from api.rates import checked_limit
from sgg_store.settings import StoreSettings
from sgg_store.trials import TrialLimits


class ApiSettings(StoreSettings):
    """Settings of the HTTP edge. Sizes are in bytes, durations in seconds."""

    max_upload_bytes: Annotated[int, Field(ge=1)] = 50 * 2**20
    """Largest file that is accepted."""
    max_json_bytes: Annotated[int, Field(ge=1024)] = 2**20
    """Largest body of any other request."""
    health_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How long /health/ready waits for a part; one that takes longer is not ready."""
    duplicate_window_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """How long a client's own retry of a job creation gets the job that its first try made."""
    rate_limit: Annotated[str, AfterValidator(checked_limit)] = "30000/minute"
    """How many requests one API key may send, as in `100/minute` or `5000 per hour`; `off` is no limit."""
    key_cache_seconds: Annotated[float, Field(ge=0, le=60)] = 2.0
    """How long an API key that was good is not looked up again: a key revoked elsewhere works for so long."""
    session_seconds: Annotated[float, Field(ge=60, le=90 * 86_400)] = 7 * 86_400.0
    """How long a session of the dashboard lasts; then one signs in again."""
    webhook_private_addresses: bool = False
    """Whether webhooks may go to private addresses and over plain http: for receivers on a network you trust."""
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long a receiver of a webhook may take to answer."""
    webhook_poll_seconds: Annotated[float, Field(gt=0, le=60)] = 0.5
    """How often the server looks for webhooks to send."""
    max_trials: Annotated[int, Field(ge=0, le=1000)] = 32
    """How many trials may be under way at once, waiting ones among them."""
    max_trials_of_project: Annotated[int, Field(ge=0, le=1000)] = 8
    """How many of them may be of one project."""
    trial_seconds: Annotated[float, Field(gt=0, le=600)] = 60.0
    """How long a trial may take, its wait in the queue included."""
    max_trial_tokens: Annotated[int, Field(ge=1)] = 512
    """How many tokens a trial may write."""

    @property
    def trial_limits(self) -> TrialLimits:
        """What bounds the queue of trials."""
        return TrialLimits(self.max_trials, self.max_trials_of_project, self.trial_seconds)
