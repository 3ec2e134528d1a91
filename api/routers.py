"""Routers of endpoints under /v1, with what all of these have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from api.dependencies import refuse_broken_texts
from api.errors import InvalidRequestError
from api.openapi import RESPONSES
from api.validation import refused_size


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class BoundedRoute(APIRoute):
    """A route whose JSON body may have so many values, since each of them may become an error that is described."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Look at the body before anything is made of it."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            if _is_json(request.headers.get("content-type", "")):
                try:
                    problem = refused_size(await request.body())
                except ClientDisconnect:
                    raise HTTPException(400, "The request broke off.") from None
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
