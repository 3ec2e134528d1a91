"""/ and /dashboard: the page, its files, and signing in and out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from api.auth import authenticate, session_cookie, session_token
from api.dashboard import service
from api.dashboard.schemas import SessionIn, SessionOut
from api.dashboard.web_files import HEADERS, WebFile, web_files
from api.dependencies import ServicesDep
from api.openapi import RESPONSES

router = APIRouter(
    tags=["dashboard"], responses={status: RESPONSES[status] for status in (400, 401, 403, 413, 429, 500, 503)}
)
SESSION_PATH = "/dashboard/session"
PRIVATE = {"cache-control": "no-store"}
LASTING = "public, max-age=31536000, immutable"


@router.get("/", include_in_schema=False)
async def show_dashboard(request: Request) -> Response:
    """Give the page."""
    etag = f'"{web_files().version}"'
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": etag})
    return _sent(request, web_files().page, {"cache-control": "no-cache", "etag": etag})


@router.get("/dashboard/{version}/{path:path}", include_in_schema=False)
async def show_dashboard_file(request: Request, version: str, path: str) -> Response:
    """Give a file that the page loads."""
    found = web_files().files.get(path) if version == web_files().version else None
    if found is None:
        raise HTTPException(404)
    return _sent(request, found, {"cache-control": LASTING})


@router.post(SESSION_PATH)
def create_session(body: SessionIn, request: Request, response: Response, services: ServicesDep) -> SessionOut:
    """Sign in: the answer sets a cookie that stands for the key."""
    address = request.client.host if request.client else "unknown"
    request.state.headers = services.rates.hit(f"sign-in {address}")
    token, session = service.sign_in(services, body, request.state.trail)
    response.set_cookie(
        session_cookie(request),
        token,
        max_age=int(services.settings.session_seconds),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    response.headers.update(PRIVATE)
    return session


@router.get(SESSION_PATH, response_model=SessionOut, responses={204: {"description": "Nobody is signed in."}})
def retrieve_session(request: Request, response: Response, services: ServicesDep) -> Any:
    """Say who is signed in."""
    session = service.current(services, session_token(request))
    if session is None:
        return Response(status_code=204, headers=PRIVATE)
    response.headers.update(PRIVATE)
    return session


@router.delete(SESSION_PATH, status_code=204)
def delete_session(request: Request, response: Response, services: ServicesDep) -> None:
    """Sign out."""
    identity = authenticate(services.keys, request)
    request.state.trail.project_id, request.state.trail.key_id = identity.project_id, identity.key_id
    token = session_token(request)
    if token is not None:
        service.sign_out(services, token)
    response.delete_cookie(session_cookie(request))


def _sent(request: Request, file: WebFile, headers: dict[str, str]) -> Response:
    content, headers = file.content, {**HEADERS, **headers, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = file.zipped, "gzip"
    return Response(content, headers=headers, media_type=file.media_type)
