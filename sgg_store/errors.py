"""Everything the store raises on purpose. One root, named classes, picklable, no HTTP and no exit codes inside."""

from __future__ import annotations

from typing import ClassVar


class StoreError(Exception):
    """Root of the store's errors. `code` is stable and machine-readable; `remedy` says what to do."""

    code: ClassVar[str] = "store_error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class RecordNotFoundError(StoreError):
    """No such row, or it belongs to another project: the caller cannot tell the two apart."""

    code = "not_found"

    def __init__(self, kind: str, record_id: str) -> None:
        super().__init__(
            f"There is no {kind} with the id {record_id!r}.",
            "Check the id, and that the API key is one of the same project.",
        )
        self.kind = kind
        self.record_id = record_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.kind, self.record_id)


class ModelNotFoundError(RecordNotFoundError):
    """No such model, or it belongs to another project. OpenAI's scripts look for this code."""

    code = "model_not_found"


class CursorNotFoundError(StoreError):
    """A list was asked to go on after an item that is not in it."""

    code = "invalid_cursor"

    def __init__(self, kind: str, after: str) -> None:
        super().__init__(
            f"`after` names {after!r}, which is not in the list of {kind}s.",
            "Use the id of the last item on the previous page, or leave `after` out to start at the beginning.",
        )
        self.kind = kind
        self.after = after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.kind, self.after)


class FileInUseError(StoreError):
    """A file cannot be deleted while a job that is not finished needs it."""

    code = "file_in_use"

    def __init__(self, file_id: str, job_ids: tuple[str, ...]) -> None:
        super().__init__(
            f"The file {file_id} is used by {', '.join(job_ids)}.",
            "Cancel these jobs or wait for their end, then delete the file.",
        )
        self.file_id = file_id
        self.job_ids = job_ids

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file_id, self.job_ids)


class FileOfModelError(FileInUseError):
    """A file cannot be deleted while it is the adapter of a model, which would be lost with it."""

    def __init__(self, file_id: str, model: str) -> None:
        StoreError.__init__(
            self,
            f"The file {file_id} is the adapter of the model {model}.",
            f"Delete the model, and the file goes with it: DELETE /v1/models/{model}.",
        )
        self.file_id = file_id
        self.job_ids = ()
        self.model = model

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file_id, self.model)


class ModelInUseError(StoreError):
    """A model cannot be deleted while a job that is not finished needs it."""

    code = "model_in_use"

    def __init__(self, name: str, job_ids: tuple[str, ...]) -> None:
        super().__init__(
            f"The model {name} is used by {', '.join(job_ids)}.",
            "Cancel these jobs or wait for their end, then delete the model.",
        )
        self.name = name
        self.job_ids = job_ids

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.job_ids)


class TooManyEndpointsError(StoreError):
    """A project has as many webhook endpoints as it may have."""

    code = "too_many_webhook_endpoints"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The project already has {most} webhook endpoints, the most allowed.", "Delete one that is not needed."
        )
        self.most = most

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.most,)


class TooManyUploadsError(StoreError):
    """A project has begun as many uploads as it may have pending."""

    code = "too_many_uploads"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The project already has {most} pending uploads, the most allowed.", "Complete or cancel one."
        )
        self.most = most

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.most,)


class UploadStatusError(StoreError):
    """An upload that is completed, cancelled or expired takes nothing more."""

    code = "invalid_upload_status"

    def __init__(self, upload_id: str, status: str, action: str) -> None:
        super().__init__(f"The upload {upload_id} is {status} and cannot be {action}.", "Begin another upload.")
        self.upload_id = upload_id
        self.status = status
        self.action = action

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.upload_id, self.status, self.action)


class UploadSizeError(StoreError):
    """The parts of an upload have more bytes than were announced."""

    code = "upload_size_mismatch"

    def __init__(self, upload_id: str, announced: int, total: int) -> None:
        super().__init__(
            f"With this part, {upload_id} has {total:,} bytes, but {announced:,} were announced for the file.",
            "Begin another upload, and announce the size of the whole file.",
        )
        self.upload_id = upload_id
        self.announced = announced
        self.total = total

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.upload_id, self.announced, self.total)


class TooManyPartsError(StoreError):
    """An upload has as many parts as it may have."""

    code = "too_many_upload_parts"

    def __init__(self, upload_id: str, most: int) -> None:
        super().__init__(
            f"The upload {upload_id} already has {most:,} parts, the most allowed.",
            "Begin another upload, and send the file in larger parts.",
        )
        self.upload_id = upload_id
        self.most = most

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.upload_id, self.most)


class DeliveryPendingError(StoreError):
    """A delivery cannot be sent again while it is still on its way."""

    code = "delivery_pending"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"The delivery {delivery_id} is still being tried.", "Wait until it is delivered or failed.")
        self.delivery_id = delivery_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.delivery_id,)


class TransitionError(StoreError):
    """A job's status does not allow what was asked."""

    code = "invalid_job_status"

    def __init__(
        self,
        job_id: str,
        status: str,
        action: str,
        remedy: str = "A finished job never changes; submit a new one to train again.",
    ) -> None:
        super().__init__(f"The job {job_id} is {status} and cannot be {action}.", remedy)
        self.job_id = job_id
        self.status = status
        self.action = action

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.job_id, self.status, self.action, self.remedy)


class IdempotencyMismatchError(StoreError):
    """An Idempotency-Key came back with a different request body."""

    code = "idempotency_key_reused"

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"The Idempotency-Key {key!r} was already used for a different request, which made {job_id}.",
            "Send the same body to get that job again, or a new key to make a new job.",
        )
        self.key = key
        self.job_id = job_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.key, self.job_id)


class QuotaExceededError(StoreError):
    """The project has used up one of its quotas. `quota` is one of `sgg_store.quotas.Quota`."""

    code = "insufficient_quota"

    def __init__(self, quota: str, limit: int) -> None:
        what, remedy = {
            "running_jobs": ("jobs running at once", "Wait until one ends"),
            "queued_jobs": ("jobs waiting at once", "Wait until some have begun, or cancel some"),
            "stored_bytes": ("bytes of stored files", "Delete files that are not needed any more"),
            "trainer_seconds_per_day": ("seconds of training a day", "Come back after midnight UTC"),
        }[quota]
        super().__init__(
            f"The project's quota of {limit:,} {what} is used up.",
            f"{remedy}, or ask the administrator for a larger quota.",
        )
        self.quota = quota
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.quota, self.limit)


class TrialQueueFullError(StoreError):
    """As many trials wait as may."""

    code = "trial_queue_full"

    def __init__(self, most: int, whose: str) -> None:
        super().__init__(
            f"{most} trials of {whose} are under way, the most allowed at once.",
            "Try again in a few seconds. Trials are for trying adapters out, one question at a time; to serve an "
            "adapter in production, download it and load it into an inference server.",
        )
        self.most = most
        self.whose = whose

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.most, self.whose)


class LeaseLostError(StoreError):
    """The attempt no longer owns its job. Nothing was written; stop the trainer and write nothing more."""

    code = "lease_lost"

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} does not hold the job {job_id} any more.",
            "Stop it; the job goes on in another attempt.",
        )
        self.job_id = job_id
        self.attempt = attempt

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.job_id, self.attempt)


class DatabaseUnavailableError(StoreError):
    """The database could not be reached, or stayed locked for too long. Nothing was committed, as far as known."""

    code = "database_unavailable"


class SchemaOutdatedError(StoreError):
    """The database's tables are not those that this version needs."""

    code = "schema_outdated"


class InvalidTextError(StoreError):
    """A text or number cannot be stored: a NUL character, a lone surrogate, a value out of range."""

    code = "invalid_value"


class StorageFullError(StoreError):
    """No space is left on the disk or in the database. What was being written was removed again."""

    code = "disk_full"


class ObjectNotFoundError(StoreError):
    """The object store has nothing under this key."""

    code = "object_not_found"


class ObjectExistsError(StoreError):
    """A create-only put met an object that is already there."""

    code = "object_exists"


class InvalidObjectKeyError(StoreError):
    """A key is not of the form that the store's own key layout makes."""

    code = "invalid_object_key"


class ObjectStoreUrlError(StoreError):
    """The object store's address cannot be used."""

    code = "invalid_object_store_url"


class ObjectStoreUnavailableError(StoreError):
    """The object store did not answer, or refused the credentials. Whether it stored anything is not known."""

    code = "object_store_unavailable"


class ForeignObjectsError(StoreError):
    """The object store holds another database's objects; `owner` is its installation's id, None if none is known."""

    code = "foreign_objects"

    def __init__(self, owner: str | None) -> None:
        whose = "are older than this database and unknown to it" if owner is None else f"belong to {owner}"
        super().__init__(
            f"The objects in the object store {whose}. None of them is removed as garbage.",
            "Check SGG_DATABASE_URL, SGG_DATA_DIR and SGG_OBJECT_STORE_URL, or restore their database. If the database "
            "is the right one (restored from before an upgrade, say), run `sgg clean --adopt`.",
        )
        self.owner = owner

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.owner,)


class UnsafeObjectStoreError(StoreError):
    """The object store does not keep the promises that jobs rest on."""

    code = "unsafe_object_store"


class BackupError(StoreError):
    """A backup cannot be made."""

    code = "backup_failed"


class BrokerUnavailableError(StoreError):
    """The doorbell could not be rung. The job is safe in the database and is rung again later."""

    code = "broker_unavailable"
