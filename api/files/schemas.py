"""Files in requests and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

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
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file whose bytes lie in an anonymous temporary file, which is gone once it is closed."""

    filename: str
    purpose: str
    size: int
    stream: BinaryIO


class ProblemOut(Out):
    """One thing that is suspicious about a file."""

    line: int | None
    field: str | None
    reason: str
    remedy: str


class SggFileOut(Out):
    """What the server found in the file."""

    sha256: str
    kind: Kind | None = None
    """Null for result files."""
    examples: int | None = None
    labels: tuple[str, ...] = ()
    """Empty unless the kind is classification."""
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
