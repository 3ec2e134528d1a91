"""/v1/fine_tuning/alpha/graders: says that there are none."""

from __future__ import annotations

from typing import Never

from api.dependencies import JobsWriter
from api.errors import NotOfferedError
from api.routers import make_router

router = make_router("/v1/fine_tuning/alpha/graders", "fine-tuning")


@router.post("/run", response_model=None)
@router.post("/validate", response_model=None)
def refuse_graders(caller: JobsWriter) -> Never:
    """Refuse. Graders belong to reinforcement fine-tuning, which this server has not."""
    raise NotOfferedError(
        "Graders are not offered: they belong to reinforcement fine-tuning, and this server trains on examples. "
        "Name a validation file in the job instead; its loss, accuracy and macro F1 are in the job's metrics."
    )
