"""/v1/uploads: a file in parts."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.datastructures import UploadFile

from api.dependencies import FilesWriter, ServicesDep
from api.errors import InvalidRequestError
from api.files.upload import received_form
from api.routers import make_router
from api.uploads import service
from api.uploads.schemas import PART_BODY, CompletionIn, PartOut, UploadIn, UploadOut
from api.validation import RequestProblem

router = make_router("/v1/uploads", "files")


@router.post("")
def create_upload(body: UploadIn, services: ServicesDep, caller: FilesWriter) -> UploadOut:
    """Begin an upload. It is there for an hour."""
    return service.create(services, caller, body)


@router.post("/{upload_id}/parts", openapi_extra=PART_BODY)
async def add_part(upload_id: str, request: Request, services: ServicesDep, caller: FilesWriter) -> PartOut:
    """Add a part. Parts may come at once, and in any order."""
    async with received_form(request, services, caller, max_fields=1) as form:
        data = form.get("data")
        if not isinstance(data, UploadFile) or not data.size:
            message = "Send the part's bytes as a part named 'data', with a filename, in a multipart/form-data body."
            raise InvalidRequestError([RequestProblem("data", "missing_file", message)])
        size, stream = data.size, data.file
        return await run_sync(service.add_part, services, caller, upload_id, size, stream, limiter=services.storing)


@router.post("/{upload_id}/complete")
async def complete_upload(upload_id: str, body: CompletionIn, services: ServicesDep, caller: FilesWriter) -> UploadOut:
    """Make a file of the parts. It is checked as any upload is; a bad one is refused with all its problems."""
    async with services.uploading[caller.project_id], services.storing_turns.of(caller.project_id):
        return await run_sync(service.complete, services, caller, upload_id, body, limiter=services.storing)


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, services: ServicesDep, caller: FilesWriter) -> UploadOut:
    """Give an upload up."""
    return service.cancel(services, caller, upload_id)
