"""/v1/files: upload, list, retrieve, delete, download."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from anyio.to_thread import run_sync
from fastapi import Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from api.dependencies import FilesReader, FilesWriter, ServicesDep
from api.files import service
from api.files.schemas import UPLOAD_BODY, FileOut
from api.files.upload import received_upload
from api.routers import make_router
from api.schemas import After, CursorListOut, DeletedOut

router = make_router("/v1/files", "files")


@router.post("", openapi_extra=UPLOAD_BODY)
async def create_file(request: Request, services: ServicesDep, caller: FilesWriter) -> FileOut:
    """Upload a file of examples. It is checked at once; a bad one is refused with all its problems."""
    # the body is read here, after the key was checked: a stranger cannot make the server store bytes
    async with received_upload(request, services, caller) as upload, services.storing_turns.of(caller.project_id):
        return await run_sync(service.create, services, caller, upload, limiter=services.storing)


@router.get("")
def list_files(
    services: ServicesDep,
    caller: FilesReader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> CursorListOut[FileOut]:
    """List files, newest first unless `order` says otherwise."""
    page = service.list_page(services, caller, after=after, limit=limit, order=order, purpose=purpose)
    return CursorListOut[FileOut](data=page.items, has_more=page.has_more)


@router.get("/{file_id}")
def retrieve_file(file_id: str, services: ServicesDep, caller: FilesReader) -> FileOut:
    """Give one file's description."""
    return service.to_out(service.retrieve(services, caller, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep, caller: FilesWriter) -> DeletedOut:
    """Delete a file, unless a job that is not finished uses it."""
    service.delete(services, caller, file_id)
    return DeletedOut(id=file_id, object="file")


@router.get("/{file_id}/content", response_class=StreamingResponse, responses={302: {"description": "Elsewhere."}})
def download_file(file_id: str, services: ServicesDep, caller: FilesReader) -> Response:
    """Give the file's bytes, whose sha256 is the ETag, or a redirect to where the object store gives them."""
    content = service.content(services, caller, file_id)
    if content.link is not None:
        return RedirectResponse(content.link, status_code=302, headers={"cache-control": "no-store"})
    headers = {
        "content-length": str(content.record.bytes),
        "content-disposition": f"attachment; filename*=utf-8''{quote(content.record.filename, safe='')}",
        "etag": f'"{content.record.sha256}"',
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(content.chunks, media_type="application/octet-stream", headers=headers)
