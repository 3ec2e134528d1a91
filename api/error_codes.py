"""Every code of a refused request: what it means and what to do. The troubleshooting page is made of this table.

A test holds the table to the codes that the sources can send.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A code of a refused request. `status` is HTTP's."""

    code: str
    status: int
    cause: str
    remedy: str


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "invalid_request",
        400,
        "The body is not a multipart form, or holds more than one file.",
        "Send the form that the message describes.",
    ),
    Refusal(
        "invalid_value",
        400,
        "A parameter is missing, unknown, out of bounds, or holds a NUL character or half of a surrogate pair.",
        "Correct the parameter that `param` names.",
    ),
    Refusal("missing_file", 400, "An upload without a file.", "Send a part `file` with a filename."),
    Refusal("invalid_purpose", 400, "The purpose of an upload is not `fine-tune`.", "Send `purpose=fine-tune`."),
    Refusal("unsupported_parameter", 400, "OpenAI's API has this parameter, this server does not.", "Leave it out."),
    Refusal(
        "unsupported_method",
        400,
        "OpenAI's API has this method, this server does not.",
        "Use one of those in the message.",
    ),
    Refusal(
        "not_offered", 400, "OpenAI's API has this path, this server does not.", "Do what the message says instead."
    ),
    Refusal(
        "upload_size_mismatch",
        400,
        "An upload's parts do not have the bytes that were announced.",
        "Name all parts, or begin another upload.",
    ),
    Refusal("upload_checksum_mismatch", 400, "The parts' MD5 is not the one that was sent.", "Begin another upload."),
    Refusal("invalid_upload_status", 400, "The upload is completed, cancelled or expired.", "Begin another upload."),
    Refusal(
        "too_many_upload_parts",
        400,
        "The upload has 1,000 parts.",
        "Begin another upload, and send the file in larger parts.",
    ),
    Refusal("too_many_uploads", 400, "The project has 20 pending uploads.", "Complete or cancel one."),
    Refusal(
        "conflicting_parameters",
        400,
        "Two settings exclude each other, or one needs another.",
        "Change or leave out the one that `param` names.",
    ),
    Refusal(
        "invalid_file",
        400,
        "The file cannot be learned from; `problems` names the lines.",
        "Correct these lines, upload again.",
    ),
    Refusal(
        "file_not_found",
        400,
        "A job's request names a file that does not exist.",
        "Upload it, use the id that the answer gives.",
    ),
    Refusal(
        "file_in_use",
        400,
        "The file is needed by jobs that are not finished, or is the adapter of a model.",
        "Cancel the jobs in the message, or wait for their end; delete the model, and its file goes with it.",
    ),
    Refusal(
        "model_in_use",
        400,
        "The model is needed by jobs that are not finished: they start from it, or it is a checkpoint of theirs.",
        "Cancel the jobs in the message, or wait for their end.",
    ),
    Refusal("model_not_found", 400, "The base model is not in the catalogue.", "Use one of the names in the message."),
    Refusal(
        "unsupported_task", 400, "The base model cannot learn from examples of this kind.", "Use another base model."
    ),
    Refusal(
        "invalid_training_file",
        400,
        "The file is sound, but no training file: it has one label only.",
        "Add examples of another label.",
    ),
    Refusal(
        "invalid_validation_file",
        400,
        "The file does not fit the training file: its kind, or labels that are not in training.",
        "Correct one of the two files.",
    ),
    Refusal(
        "invalid_source_file",
        400,
        "A source file does not fit: its kind, or one label only.",
        "Correct it or leave it out.",
    ),
    Refusal(
        "invalid_retention_file",
        400,
        "The base model cannot be asked the retention file's kind of examples.",
        "Use another file, or leave it out.",
    ),
    Refusal(
        "starting_point_not_found",
        400,
        "`start_from` or `model` names no model, checkpoint or file.",
        "Use one of the kinds that the message lists.",
    ),
    Refusal(
        "invalid_starting_point",
        400,
        "The adapter to start from does not fit: base model, rank, scale, or the file is no adapter.",
        "Change what `param` names.",
    ),
    Refusal(
        "invalid_job_status",
        400,
        "A finished job cannot be cancelled or paused, only a paused one can be resumed, only a finished one deleted.",
        "Do what the message says; do not repeat the request.",
    ),
    Refusal(
        "too_many_webhook_endpoints", 400, "The project has 20 webhook endpoints.", "Delete one that is not needed."
    ),
    Refusal(
        "delivery_pending",
        400,
        "A webhook's delivery is still being tried, so it cannot be sent again.",
        "Wait until it is delivered or failed.",
    ),
    Refusal("wrong_endpoint", 400, "The model answers another kind of question.", "Use the path in the message."),
    Refusal("context_length_exceeded", 400, "The prompt has more tokens than the base model can see.", "Shorten it."),
    Refusal(
        "invalid_cursor", 400, "`after` names nothing in the list.", "Use the id of the last item of the page before."
    ),
    Refusal(
        "invalid_api_key",
        401,
        "No key, or one that is unknown, expired or revoked.",
        "Send `Authorization: Bearer <key>`.",
    ),
    Refusal(
        "session_ended",
        401,
        "The dashboard's session has ended, or the sign-in link was used or has expired.",
        "Sign in again.",
    ),
    Refusal(
        "cross_site_request",
        403,
        "The request has a dashboard session but not its `x-csrf-token`.",
        "Send the header that `GET /dashboard/session` gives, or an API key.",
    ),
    Refusal(
        "insufficient_permissions",
        403,
        "The key lacks the scope; or a priority above 0 without `admin`; or the model to delete is not the project's.",
        "Use a key that has it.",
    ),
    Refusal(
        "not_found",
        404,
        "No such path, file or job, or it belongs to another project.",
        "Check the id and the key.",
    ),
    Refusal(
        "model_not_found",
        404,
        "No such model, or it belongs to another project.",
        "Use one of those that `GET /v1/models` lists, or the name of a checkpoint.",
    ),
    Refusal(
        "no_report",
        404,
        "The job has no report, or its labels were not judged: it has not succeeded, or an older version made it.",
        "Wait for its end, or read the adapter's archive.",
    ),
    Refusal("method_not_allowed", 405, "The path does not know this verb.", "Use one of those in the header `Allow`."),
    Refusal(
        "upload_stalled",
        408,
        "No data of an upload arrived for a minute.",
        "Send the file again, over a better connection.",
    ),
    Refusal(
        "request_stalled",
        408,
        "A request's body, other than a file, did not arrive within a minute.",
        "Send it again, over a better connection, or send less: upload examples as a file.",
    ),
    Refusal(
        "idempotency_key_reused",
        409,
        "The same `Idempotency-Key` came with another body.",
        "Send the same body, or a new key; do not repeat.",
    ),
    Refusal(
        "request_too_large",
        413,
        "A file of more than 50 MiB, or another body of more than 1 MiB; 64 KiB where it holds names and ids alone.",
        "Leave examples out, or split the file. In another body, send only what it needs; upload examples as a file.",
    ),
    Refusal(
        "rate_limit_exceeded",
        429,
        "The key sends more requests than it may; `x-ratelimit-...` headers tell.",
        "Wait for `retry-after` seconds.",
    ),
    Refusal(
        "insufficient_quota",
        429,
        "The project has used up a quota: waiting jobs, stored bytes, or the day's training.",
        "Do what the message says, or ask the administrator for more; do not repeat.",
    ),
    Refusal(
        "trial_queue_full",
        429,
        "The most trials allowed at once are under way, for the project or for the server.",
        "Wait for `retry-after` seconds; to serve an adapter in production, download it.",
    ),
    Refusal("internal_error", 500, "A defect of the server.", "Try again; then tell the administrator the request id."),
    Refusal(
        "file_inspection_failed",
        500,
        "A large upload took too long to read.",
        "Split the file, or tell the administrator.",
    ),
    Refusal(
        "file_content_missing",
        500,
        "The object store has lost a file's bytes.",
        "Upload it again, tell the administrator.",
    ),
    Refusal("database_unavailable", 503, "The database does not answer.", "Try again after `retry-after` seconds."),
    Refusal(
        "object_store_unavailable", 503, "The file storage does not answer.", "Try again after `retry-after` seconds."
    ),
    Refusal(
        "trial_failed",
        503,
        "No worker answered the trial in time, or the worker stopped while it answered.",
        "Try again after `retry-after` seconds.",
    ),
    Refusal(
        "trial_overdue",
        503,
        "A worker was at the trial for most of its time, and had nothing to show when that was over.",
        "Ask for less, or raise `SGG_TRIAL_SECONDS`; do not repeat.",
    ),
    Refusal(
        "model_unavailable",
        503,
        "The base model or adapter cannot be loaded where trials are answered.",
        "The message says why; tell the administrator.",
    ),
    Refusal(
        "schema_outdated",
        503,
        "The database's tables belong to another version of SGG.",
        "The administrator runs `sgg db upgrade`.",
    ),
    Refusal(
        "invalid_catalogue",
        503,
        "The catalogue of base models is damaged.",
        "The administrator repairs `base-models.json`.",
    ),
    Refusal(
        "disk_full",
        507,
        "No space is left; nothing half-written is kept.",
        "The administrator frees space, then try again.",
    ),
)
