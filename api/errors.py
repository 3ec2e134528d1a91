"""From errors to answers: one table, one envelope (OpenAI's), one set of handlers. Nothing else writes an error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from api.validation import LONGEST_PATH, RequestProblem, problems_of_request
from sgg_core import errors as core
from sgg_store import errors as store
from sgg_store.logs import get_logger

_log = get_logger(__name__)


class ApiError(Exception):
    """Root of what the HTTP edge itself refuses. `code` is stable; the message ends with what to do."""

    code: ClassVar[str] = "invalid_request"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequestError(ApiError):
    """The request's parameters are wrong. Carries every problem, not only the first."""

    def __init__(self, problems: Sequence[RequestProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(_joined(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problems,)


class InvalidFileError(ApiError):
    """An uploaded file cannot be trained on. Carries what the parser found."""

    code = "invalid_file"

    def __init__(self, cause: core.DataError) -> None:
        super().__init__(str(cause))
        self.cause = cause

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.cause,)


class FileInspectionError(ApiError):
    """The process that reads a large upload died or took too long."""

    code = "file_inspection_failed"


class NotOfferedError(ApiError):
    """OpenAI's API has this path, and this server answers it only to say that it has not."""

    code = "not_offered"


class FileTooLargeError(ApiError):
    """An uploaded file has more bytes than this server takes."""

    code = "request_too_large"


class UploadStalledError(ApiError):
    """A client began to send a file and fell silent."""

    code = "upload_stalled"


class AuthenticationError(ApiError):
    """No API key came with the request, or one that is unknown, expired or revoked."""

    code = "invalid_api_key"


class SessionEndedError(AuthenticationError):
    """A browser's session, or the link that was to begin one, is over."""

    code = "session_ended"


class PermissionDeniedError(ApiError):
    """The API key is good, but not for this."""

    code = "insufficient_permissions"


class CrossSiteRequestError(PermissionDeniedError):
    """A browser's session came without the token that only the dashboard's own pages know."""

    code = "cross_site_request"


class RateLimitedError(ApiError):
    """The API key sends more requests than it may. `headers` tell how many it may send, and when the next one."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = dict(headers)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.headers)


class ContentMissingError(ApiError):
    """A file's row exists, but the object store has lost its bytes."""

    code = "file_content_missing"


class NoReportError(ApiError):
    """There is no report on this job: it has not succeeded, or an older version made it."""

    code = "no_report"


class TrialFailedError(ApiError):
    """A trial found no worker, or lost it. Another try may do better."""

    code = "trial_failed"


class TrialOverdueError(TrialFailedError):
    """A worker had most of a trial's time, and nothing to show at its end. Another try would end alike."""

    code = "trial_overdue"


class ModelUnavailableError(ApiError):
    """The files of a base model or adapter are missing or damaged where trials are answered."""

    code = "model_unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    """How one class of errors is answered. `message` replaces the error's own where that would tell internals,
    `type` the usual one of the status."""

    status: int
    param: str | None = None
    message: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    type: str | None = None


_FINAL = {"x-should-retry": "false"}  # clients of OpenAI's API repeat 409 and 5xx unless told not to
_FULL = "No space is left on the server's disk, nothing was kept. Ask the administrator to free some, then try again."
_SOON = {"retry-after": "2"}

ANSWERS: dict[type[Exception], Answer] = {
    ApiError: Answer(400),
    FileInspectionError: Answer(500, param="file", headers=_FINAL),
    FileTooLargeError: Answer(413, param="file"),
    UploadStalledError: Answer(408, headers=_SOON),
    AuthenticationError: Answer(401, headers={"www-authenticate": "Bearer"}),
    PermissionDeniedError: Answer(403),
    RateLimitedError: Answer(429, headers={"retry-after": "1"}),
    ContentMissingError: Answer(500, headers=_FINAL),
    NoReportError: Answer(404),
    TrialFailedError: Answer(503, headers=_SOON),
    TrialOverdueError: Answer(503, headers=_FINAL),
    ModelUnavailableError: Answer(503, headers=_FINAL),
    core.CatalogueError: Answer(
        503, message="The catalogue of base models is damaged. Ask the administrator to repair it.", headers=_FINAL
    ),
    store.RecordNotFoundError: Answer(404),
    store.ModelNotFoundError: Answer(404, param="model"),
    store.CursorNotFoundError: Answer(400, param="after"),
    store.FileInUseError: Answer(400, param="file_id"),
    store.ModelInUseError: Answer(400, param="model"),
    store.TransitionError: Answer(400),
    store.TooManyEndpointsError: Answer(400),
    store.DeliveryPendingError: Answer(400),
    store.TooManyUploadsError: Answer(400),
    store.UploadStatusError: Answer(400),
    store.TooManyPartsError: Answer(400, param="data"),
    store.UploadSizeError: Answer(400, param="data"),
    store.IdempotencyMismatchError: Answer(409, param="Idempotency-Key", headers=_FINAL),
    store.QuotaExceededError: Answer(429, headers=_FINAL, type="insufficient_quota"),
    store.TrialQueueFullError: Answer(429, headers={"retry-after": "5"}),
    store.InvalidTextError: Answer(400),
    store.StorageFullError: Answer(507, message=_FULL, headers=_FINAL),
    store.DatabaseUnavailableError: Answer(
        503, message="The database does not answer. Try again in a moment.", headers=_SOON
    ),
    store.ObjectStoreUnavailableError: Answer(
        503, message="The file storage does not answer. Try again in a moment.", headers=_SOON
    ),
    store.SchemaOutdatedError: Answer(503, headers=_FINAL),
}

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 408: "request_stalled", 413: "request_too_large"}


class ErrorResponse(JSONResponse):
    """OpenAI's error envelope. Escapes all but ASCII, so that any text of a caller can be sent back."""

    def render(self, content: Any) -> bytes:
        """Encode the envelope."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_response(
    status: int,
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    problems: Sequence[Mapping[str, Any]] = (),
    type_: str | None = None,
) -> ErrorResponse:
    """Make the answer to a request that failed. `problems` are told one by one under `sgg.problems`."""
    usual = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error: dict[str, Any] = {
        "message": message,
        "type": type_ or _TYPES.get(status, usual),
        "param": param,
        "code": code,
    }
    if problems:
        error["sgg"] = {"problems": list(problems)}
    return ErrorResponse({"error": error}, status_code=status, headers=dict(headers or {}))


def internal_error(request_id: str) -> ErrorResponse:
    """Make the answer to a request that met a defect: it tells where to look, and nothing of the inside."""
    message = (
        f"The server failed; its log has the error under the request id {request_id}. "
        "Try again. If it fails again, tell the administrator this id."
    )
    return error_response(500, message, code="internal_error")


def register_error_handlers(app: FastAPI) -> None:
    """Let `app` answer every error that is raised on purpose in the envelope. Defects pass on to the middleware."""
    for root in (ApiError, core.CatalogueError, store.StoreError):
        app.add_exception_handler(root, _answer_named)
    app.add_exception_handler(OSError, _answer_os)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer_named(request: Request, error: Exception) -> ErrorResponse:
    answer = next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), None)
    if answer is None:
        raise error
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("a request was answered with an error", error=str(error), exc_info=error)
    code, param = getattr(error, "code", None), answer.param
    problems: tuple[Mapping[str, Any], ...] = ()
    if isinstance(error, InvalidRequestError):
        first = error.problems[0]
        code, param = first.code, first.param
        problems = tuple(dataclasses.asdict(problem) for problem in error.problems)
    elif isinstance(error, InvalidFileError):
        param = "file"
        problems = tuple(dataclasses.asdict(problem) for problem in error.cause.problems)
    message = answer.message or str(error)
    return error_response(
        answer.status,
        message,
        code=code,
        param=param,
        headers={**answer.headers, **getattr(error, "headers", {})},
        problems=problems,
        type_=answer.type,
    )


async def _answer_os(request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, OSError)
    if error.errno not in core.NO_SPACE:
        raise error
    return await _answer_named(request, store.StorageFullError(str(error)))


async def _answer_validation(request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, RequestValidationError)
    return await _answer_named(request, InvalidRequestError(problems_of_request(error)))


async def _answer_http(request: Request, error: Exception) -> ErrorResponse:
    assert isinstance(error, HTTPException)
    message, headers = str(error.detail), dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"There is no endpoint {request.method} {_short(request.url.path)}. All are listed in /openapi.json."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        message = f"{_short(request.url.path)} does not answer to {request.method}. Use {allowed}."
        headers = {**headers, "Allow": allowed}
    code = _CODES.get(error.status_code, "invalid_request")
    return error_response(error.status_code, message, code=code, headers=headers)


def _short(path: str) -> str:
    return path if len(path) <= LONGEST_PATH else f"{path[:LONGEST_PATH]}…"


def _allowed_methods(request: Request) -> str:
    """Name the verbs of all routes with this path; the router itself names those of the first one only."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    found = {verb.upper() for path, verbs in paths.items() if _matches(path, request.url.path) for verb in verbs}
    return ", ".join(sorted(found)) or "another verb"


def _matches(template: str, path: str) -> bool:
    return compile_path(template)[0].match(path) is not None


def _joined(problems: Sequence[RequestProblem]) -> str:
    texts = [f"{problem.param}: {problem.message}" if problem.param else problem.message for problem in problems]
    if len(texts) == 1:
        return texts[0]
    lines = "\n".join(f"  {text}" for text in texts)
    return f"The request has these problems:\n{lines}"
