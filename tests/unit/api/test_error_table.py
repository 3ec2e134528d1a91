"""Every error that is raised on purpose has an answer, and survives pickling."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from api import errors as api_errors
from api.validation import RequestProblem
from sgg_core import errors as core_errors
from sgg_core import trials as core_trials
from sgg_core.errors import DataError, Problem, SggError
from sgg_store import errors as store_errors

INTERNAL = {  # raised where no request is answered, or turned into something else on the way
    store_errors.LeaseLostError,
    store_errors.ObjectNotFoundError,
    store_errors.ObjectExistsError,
    store_errors.InvalidObjectKeyError,
    store_errors.ObjectStoreUrlError,
    store_errors.BackupError,
    store_errors.ForeignObjectsError,
    store_errors.UnsafeObjectStoreError,
    store_errors.BrokerUnavailableError,
    core_errors.DataError,
    core_errors.ValidationFileError,
    core_errors.SourceFileError,
    core_errors.RetentionFileError,
    core_errors.SpecError,
    core_errors.SettingError,
    core_errors.StartingPointError,
    core_errors.UnknownBaseModelError,
    core_errors.BaseModelUnavailableError,
    core_errors.TrainingDivergedError,
    core_errors.OutOfMemoryError,
    core_errors.HelperLostError,
    core_errors.DiskFullError,
    core_errors.VerificationError,
    core_errors.CheckpointError,
    core_errors.StartingPointError,
    core_trials.TrialError,
    core_trials.WrongEndpointError,
    core_trials.ContextLengthError,
}


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("root", [api_errors.ApiError, store_errors.StoreError, SggError])
def test_every_error_has_an_answer(root: type[Exception]) -> None:
    kinds = [kind for kind in subclasses(root) if kind.__module__.split(".")[0] in ("api", "sgg_store", "sgg_core")]
    assert kinds
    answered = {kind for kind in kinds if not kind.__module__.startswith("sgg_core.bench.")}  # no request benches
    for kind in answered - INTERNAL:
        assert any(parent in api_errors.ANSWERS for parent in kind.__mro__), kind


def test_no_answer_makes_clients_repeat_what_cannot_help() -> None:
    for kind, answer in api_errors.ANSWERS.items():
        if answer.status in (408, 409, 429) or answer.status >= 500:
            assert "x-should-retry" in answer.headers or "retry-after" in answer.headers, kind


def test_errors_survive_pickling() -> None:
    problems = (RequestProblem("seed", "invalid_value", "Too small."), RequestProblem(None, "x", "No body."))
    invalid = pickle.loads(pickle.dumps(api_errors.InvalidRequestError(problems)))
    assert invalid.problems == problems and str(invalid) == str(api_errors.InvalidRequestError(problems))
    cause = DataError("a.jsonl", (Problem(1, "text", "It is missing.", "Add it."),))
    file_error = pickle.loads(pickle.dumps(api_errors.InvalidFileError(cause)))
    assert file_error.cause.problems == cause.problems
    assert str(pickle.loads(pickle.dumps(api_errors.AuthenticationError("No.")))) == "No."


def test_the_envelope_can_carry_any_text() -> None:
    body = api_errors.error_response(400, "lone \ud800 surrogate", code="x").body
    assert b'"message":"lone \\ud800 surrogate"' in body
