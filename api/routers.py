"""Routers of endpoints under /v1, with what all of these have in common."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.dependencies import refuse_broken_texts
from api.openapi import RESPONSES


def make_router(prefix: str, tag: str) -> APIRouter:
    """Make one. The application takes its routes as they are: a router that includes others makes each route again."""
    return APIRouter(prefix=prefix, tags=[tag], dependencies=[Depends(refuse_broken_texts)], responses=RESPONSES)
