"""Routers of endpoints under /v1, with what all of these have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from api.dependencies import refuse_broken_texts
from api.errors import InvalidRequestError
from api.openapi import RESPONSES
from api.validation import refused_size


class BoundedRoute(APIRoute):
    """A route whose JSON body may have so many values, since each of them may become an error that is described."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Look at the body before anything is made of it."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            if "json" in request.headers.get("content-type", ""):
                body = await request.body()
                problem = refused_size(body)
                if problem is not None:
                    raise InvalidRequestError([problem])
            return await handle(request)

        return handle_bounded


def make_router(prefix: str, tag: str) -> APIRouter:
    """Make one. The application takes its routes as they are: a router that includes others makes each route again."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        dependencies=[Depends(refuse_broken_texts)],
        responses=RESPONSES,
        route_class=BoundedRoute,
    )
