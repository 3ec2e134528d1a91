"""Files in requests and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Identified, Out
from sgg_core.shapes import Kind

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}


class ExpiresAfter(BaseModel):
    """How long a file is to live."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]
    """An hour to 30 days."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file whose bytes lie in an anonymous temporary file, which is gone once it is closed."""

    filename: str
    purpose: str
    size: int
    stream: BinaryIO
    lifetime_seconds: int | None = None


class ProblemOut(Out):
    """One thing that is suspicious or wrong about a file."""

    line: int | None
    field: str | None
    reason: str
    remedy: str


class SggFileOut(Out):
    """What the server found in the file."""

    sha256: str
    kind: Kind | Literal["adapter"] | None = None
    """Null for result files."""
    examples: int | None = None
    labels: tuple[str, ...] = ()
    """Empty unless the kind is classification."""
    rank: int | None = None
    """Of an adapter."""
    targets: tuple[str, ...] = ()
    """Names of the layers that an adapter adapts."""
    warning_count: int = 0
    warnings: tuple[ProblemOut, ...] = ()
    """The first ones."""


class FileOut(Identified):
    """A file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    sgg: SggFileOut
