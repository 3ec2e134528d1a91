"""Errors as OpenAI's clients see them: their class, their parts, and how often a client asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.database import upgrade_schema

from .conftest import Client
from .test_clients import MODEL, create, upload


def told(kind: type[openai.APIStatusError], ask: Callable[[], Any]) -> tuple[str | None, str | None]:
    """What a refusal says: its type and code. All four parts of the envelope and the request's id must be there."""
    with pytest.raises(kind) as caught:
        ask()
    error = caught.value
    assert isinstance(error.body, dict) and {"message", "type", "param", "code"} <= set(error.body)
    assert error.message and error.request_id and error.request_id.startswith("req_")
    return error.type, error.code


def test_wrong_keys(client: Client, server: ApiServer) -> None:
    stranger = client.with_key("sk-wrong")
    assert told(openai.AuthenticationError, lambda: stranger.call("models.list")) == (
        "authentication_error",
        "invalid_api_key",
    )
    stranger.close()
    reader = client.with_key(server.new_key(["files:read"]))
    denied = told(openai.PermissionDeniedError, lambda: reader.call("fine_tuning.jobs.list"))
    assert denied == ("permission_error", "insufficient_permissions")
    reader.close()


def test_what_is_not_there(client: Client) -> None:
    missing = ("not_found_error", "not_found")
    for path in ("files.retrieve", "fine_tuning.jobs.retrieve", "files.content"):
        assert told(openai.NotFoundError, lambda path=path: client.call(path, "none")) == missing
    no_model = ("not_found_error", "model_not_found")
    for name in ("none", "owner/none", "ft:none:p::x", "ft:none:p::01234567:ckpt-step-1"):
        for path in ("models.retrieve", "models.delete"):
            assert told(openai.NotFoundError, lambda name=name, path=path: client.call(path, name)) == no_model
        asked = {"model": name, "messages": [{"role": "user", "content": "x"}]}
        told_of_chat = told(openai.NotFoundError, lambda asked=asked: client.call("chat.completions.create", **asked))
        assert told_of_chat == no_model
    assert told(openai.NotFoundError, lambda: client.call("get", "/nothing", cast_to=object)) == missing
    assert told(openai.APIStatusError, lambda: client.call("put", "/files", cast_to=object)) == (
        "invalid_request_error",
        "method_not_allowed",
    )


def test_every_problem_of_a_request_is_told(client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.call("fine_tuning.jobs.create", model="none", training_file="file-none", seed=-1)
    assert isinstance(caught.value.body, dict)
    problems = caught.value.body["sgg"]["problems"]
    assert {problem["param"] for problem in problems} == {"model", "training_file", "seed"}


def test_a_conflict_is_not_repeated(client: Client) -> None:
    key = {"Idempotency-Key": f"key-{id(client)}-{client.strict}"}
    file = upload(client).id
    first = create(client, training_file=file, extra_headers=key)
    assert create(client, training_file=file, extra_headers=key).id == first.id
    conflict = told(openai.ConflictError, lambda: create(client, training_file=file, seed=1, extra_headers=key))
    assert conflict == ("invalid_request_error", "idempotency_key_reused")


def settings_in(directory: Path, **more: Any) -> ApiSettings:
    settings = ApiSettings(data_dir=directory / "data", database_url=f"sqlite:///{directory}/sgg.sqlite3", **more)
    upgrade_schema(settings.database_url)
    return settings


def test_too_many_requests(tmp_path: Path) -> None:
    with serving(settings_in(tmp_path, rate_limit="3/minute")) as server:
        client = Client(server, max_retries=0)
        for _ in range(3):
            client.call("models.list")
        refused = told(openai.RateLimitError, lambda: client.call("models.list"))
        client.close()
    assert refused[0] == "rate_limit_error" and refused[1]


def test_a_defect_is_told_and_its_repetition_makes_no_second_job(tmp_path: Path) -> None:
    rings: list[str] = []

    def fails_once(job_id: str) -> None:
        rings.append(job_id)
        raise RuntimeError("the job is stored, and its answer is lost")

    with serving(settings_in(tmp_path), ring=fails_once) as server:
        file = server.file_id()
        once = Client(server, max_retries=0)
        defect = told(openai.InternalServerError, lambda: create(once, training_file=file))
        assert defect == ("server_error", "internal_error")
        once.close()
        client = Client(server)
        job = create(client, training_file=file, model=MODEL, seed=5)
        assert rings[1:] == [job.id]
        assert len(client.all("fine_tuning.jobs.list")) == 2
        client.close()
