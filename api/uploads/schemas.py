"""Uploads in requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.files.schemas import ExpiresAfter, FileOut
from api.files.upload import MAX_FILENAME_CHARS
from api.schemas import Identified

PART_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "contentMediaType": "application/octet-stream"}},
                }
            }
        },
    }
}


class UploadIn(BaseModel):
    """A request to begin an upload."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    filename: Annotated[str, Field(min_length=1, max_length=MAX_FILENAME_CHARS)]
    purpose: Literal["fine-tune"]
    bytes: Annotated[int, Field(ge=1)]
    """Of the whole file."""
    mime_type: Annotated[str, Field(max_length=200)]
    """Taken for the sake of OpenAI's clients; what the file holds is looked at itself."""
    expires_after: ExpiresAfter | None = None


class CompletionIn(BaseModel):
    """A request to make a file of the parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    part_ids: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=1000)]
    """In the order of their bytes."""
    md5: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{32})?$")] | None = None
    """Of the whole file, in hexadecimal digits."""


class UploadOut(Identified):
    """An upload."""

    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled"]
    file: FileOut | None
    """Once it is completed."""


class PartOut(Identified):
    """A part of an upload."""

    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
