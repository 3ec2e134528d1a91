"""Paths of OpenAI's API that scripts call beside fine-tuning and that this server has not: each names the way here."""

from __future__ import annotations

from typing import Never

from api.dependencies import JobsWriter, Trier
from api.errors import NotOfferedError
from api.routers import make_router

router = make_router("/v1", "not offered")


@router.post("/responses", response_model=None)
def refuse_responses(caller: Trier) -> Never:
    """Refuse. Models are tried out through chats."""
    raise NotOfferedError("Responses are not offered. Ask through /v1/chat/completions, with `messages`.")


@router.post("/embeddings", response_model=None)
def refuse_embeddings(caller: Trier) -> Never:
    """Refuse. Encoders give labels here."""
    raise NotOfferedError(
        "Embeddings are not offered: an encoder is fine-tuned to give labels, through /v1/classifications. "
        "For its vectors, download the adapter and load it with PEFT."
    )


@router.post("/batches", response_model=None)
def refuse_batches(caller: Trier) -> Never:
    """Refuse. Many questions are for a downloaded adapter."""
    raise NotOfferedError(
        "Batches are not offered. Ask through /v1/chat/completions, one question a request; "
        "to answer many, download the adapter and run `sgg predict`, or load it into an inference server."
    )


@router.post("/evals", response_model=None)
def refuse_evals(caller: JobsWriter) -> Never:
    """Refuse. A job's report says how good its model is."""
    raise NotOfferedError(
        "Evals are not offered: a job with a validation file compares the model before and after the training. "
        "Read its report, GET /v1/fine_tuning/jobs/{id}/report."
    )
