"""/v1/fine_tuning/alpha/graders: says that there are none."""

from __future__ import annotations

from typing import Never

from fastapi import APIRouter

from api.dependencies import JobsWriter
from api.errors import NotOfferedError

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])


@router.post("/run", response_model=None)
@router.post("/validate", response_model=None)
def refuse_graders(caller: JobsWriter) -> Never:
    """Refuse. Graders belong to reinforcement fine-tuning, which this server has not."""
    raise NotOfferedError(
        "Graders are not offered: they belong to reinforcement fine-tuning, and this server trains on examples. "
        "Name a validation file in the job instead; its loss, accuracy and macro F1 are in the job's metrics."
    )
