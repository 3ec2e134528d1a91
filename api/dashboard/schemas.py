"""Sessions of the dashboard in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas import Out

Secret = Annotated[str, Field(min_length=1, max_length=200)]


class SessionIn(BaseModel):
    """Who signs in: by an API key, or by the link that `sgg serve` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: Secret | None = None
    """An API key."""
    link: Secret | None = None
    """What follows `#sign-in=` in a link; it works once."""

    @model_validator(mode="after")
    def _one_of_both(self) -> SessionIn:
        if (self.key is None) == (self.link is None):
            raise ValueError("Send an API key in `key`, or a link's text in `link`.")
        return self


class SessionOut(Out):
    """A session. It can do what its key can, for as long as the key is valid."""

    object: Literal["dashboard.session"] = "dashboard.session"
    project_id: str
    key_id: str
    key_name: str
    scopes: tuple[str, ...]
    expires_at: int
    csrf_token: str
    """What the header `x-csrf-token` of every request has to hold that changes something."""
