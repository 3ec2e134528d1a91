"""Errors of the store survive a pipe and tell what to do."""

from __future__ import annotations

import pickle

import pytest

from sgg_store import errors

EXAMPLES = [
    errors.RecordNotFoundError("file", "file-1"),
    errors.CursorNotFoundError("job", "ftjob-1"),
    errors.FileInUseError("file-1", ("ftjob-1", "ftjob-2")),
    errors.ModelInUseError("ft:tiny:default::1", ("ftjob-1",)),
    errors.TransitionError("ftjob-1", "failed", "cancelled"),
    errors.IdempotencyMismatchError("key", "ftjob-1"),
    errors.QuotaExceededError("stored_bytes", 100),
    errors.LeaseLostError("ftjob-1", 2),
    errors.TooManyEndpointsError(10),
    errors.DeliveryPendingError("whd_1"),
    errors.TooManyUploadsError(10),
    errors.TooManyPartsError("upload_1", 10),
    errors.UploadStatusError("upload_1", "completed", "cancelled"),
    errors.UploadSizeError("upload_1", 10, 20),
    errors.TrialQueueFullError(8, "this project"),
    errors.ForeignObjectsError("inst-1"),
    *(
        kind("What happened.", "What to do.")
        for kind in errors.StoreError.__subclasses__()
        if kind.__init__ is errors.StoreError.__init__
    ),
]
SPECIAL = [errors.ModelNotFoundError("model", "x"), errors.FileOfModelError("file-1", "ft:tiny:default::1")]


def test_all_errors_are_here() -> None:
    assert {type(error) for error in EXAMPLES} == set(errors.StoreError.__subclasses__())


@pytest.mark.parametrize("error", [*EXAMPLES, *SPECIAL], ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_carry_a_remedy(error: errors.StoreError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.remedy
    assert error.code != errors.StoreError.code


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in errors.StoreError.__subclasses__()]
    assert len(codes) == len(set(codes))
