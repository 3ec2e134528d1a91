"""Uploaded adapters: a safetensors file, judged by its header alone."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict

from api.files.schemas import Upload
from sgg_core.adapter_file import AdapterFacts, read_facts
from sgg_core.errors import DataError, Problem, StartingPointError

SUFFIX = ".safetensors"


class AdapterFileFacts(BaseModel):
    """What is remembered of an uploaded adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    kind: Literal["adapter"] = "adapter"
    adapter: AdapterFacts

    @classmethod
    def read(cls, upload: Upload) -> AdapterFileFacts:
        """Judge an upload. Raises DataError if it is no adapter."""
        try:
            facts = read_facts(upload.stream, upload.size, upload.filename)
        except StartingPointError as error:
            raise DataError(upload.filename, (Problem(None, None, error.message, error.remedy),)) from error
        digest = hashlib.sha256()
        upload.stream.seek(0)
        while chunk := upload.stream.read(2**20):
            digest.update(chunk)
        return cls(sha256=digest.hexdigest(), adapter=facts)
