"""OpenAI's own Python client, which refuses every object that is not as OpenAI describes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving

MODEL = "smollm2-135m-instruct"
RESULTS = {"metrics.csv": b"step,train_loss\n1,1.0\n", "adapter.tar.gz": b"\x1f\x8b bundle"}


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=api_server.base_url, api_key=api_server.admin_key, _strict_response_validation=True
    ) as opened:
        yield opened


def count_requests(client: openai.OpenAI) -> list[httpx.Request]:
    seen: list[httpx.Request] = []
    client._client.event_hooks["request"].append(seen.append)
    return seen


def test_files(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(labelled())
    file = client.files.create(file=path, purpose="fine-tune")
    assert (file.filename, file.status, file.object) == ("train.jsonl", "processed", "file")
    assert client.files.wait_for_processing(file.id).id == file.id
    assert client.files.retrieve(file.id) == file
    client.files.content(file.id).write_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == labelled()
    others = [client.files.create(file=("o.jsonl", labelled()), purpose="fine-tune").id for _ in range(4)]
    assert [item.id for item in client.files.list(limit=2, order="asc")] == [file.id, *others]
    assert client.files.delete(file.id).deleted is True


def test_the_life_of_a_job(client: openai.OpenAI, api_server: ApiServer) -> None:
    training = client.files.create(file=("t.jsonl", labelled()), purpose="fine-tune").id
    validation = client.files.create(file=("v.jsonl", labelled(2)), purpose="fine-tune").id
    created = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training,
        validation_file=validation,
        suffix="mine",
        seed=5,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )
    assert (created.status, created.seed, created.hyperparameters.n_epochs) == ("queued", 5, 2)
    assert created.metadata == {"team": "a"}
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [created.id]
    assert list(client.fine_tuning.jobs.list(metadata={"team": "b"})) == []
    worker = api_server.claim(created.id)
    worker.step(2)
    worker.say("half way")
    worker.checkpoint(2)
    running = client.fine_tuning.jobs.retrieve(created.id)
    assert running.status == "running" and running.estimated_finish is not None
    assert running.model_extra is not None and running.model_extra["sgg"]["progress"] == 0.2
    assert next(iter(client.fine_tuning.jobs.list_events(created.id))).message == "half way"
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(created.id)))
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (2, 0.5)
    worker.succeed(RESULTS)
    finished = client.fine_tuning.jobs.retrieve(created.id)
    assert finished.status == "succeeded" and finished.fine_tuned_model
    assert [client.files.content(file_id).read() for file_id in finished.result_files] == list(RESULTS.values())
    assert client.files.retrieve(finished.result_files[0]).purpose == "fine-tune-results"
    assert client.models.retrieve(finished.fine_tuned_model).owned_by == "proj-default"
    assert finished.fine_tuned_model in [model.id for model in client.models.list()]
    assert client.models.delete(finished.fine_tuned_model).deleted is True


def test_the_sgg_method_passes_through_the_plain_client(api_server: ApiServer) -> None:
    with openai.OpenAI(base_url=api_server.base_url, api_key=api_server.admin_key) as client:
        source = client.files.create(file=("s.jsonl", labelled()), purpose="fine-tune").id
        method: Any = {"type": "sgg", "sgg": {"hyperparameters": {"guidance": {"radius": 0.1}}, "sources": [source]}}
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=api_server.file_id(), method=method)
    answered = job.to_dict()["method"]
    assert isinstance(answered, dict) and answered["type"] == "sgg"
    assert answered["sgg"]["hyperparameters"]["guidance"]["radius"] == 0.1
    assert answered["sgg"]["sources"] == [source]
    assert job.to_dict()["sgg"]["sources"] == [source]  # type: ignore[index]


def test_a_failed_and_a_cancelled_job(client: openai.OpenAI, api_server: ApiServer) -> None:
    failed, cancelled = api_server.job_id(), api_server.job_id()
    api_server.claim(failed).fail("training_diverged", "The loss became NaN.")
    error = client.fine_tuning.jobs.retrieve(failed).error
    assert error is not None and (error.code, error.message) == ("training_diverged", "The loss became NaN.")
    assert client.fine_tuning.jobs.cancel(cancelled).status == "cancelled"
    requests = count_requests(client)
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.cancel(cancelled)
    assert caught.value.code == "invalid_job_status" and caught.value.request_id
    assert len(requests) == 1


def test_pages_follow_each_other_by_themselves(client: openai.OpenAI, api_server: ApiServer) -> None:
    training_file = api_server.file_id()
    jobs = [api_server.job_id(training_file=training_file) for _ in range(25)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=10)] == jobs[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list()] == jobs[::-1]
    worker = api_server.claim(jobs[0])
    worker.say(*(f"event {index}" for index in range(120)))
    seen = []
    for number, event in enumerate(client.fine_tuning.jobs.list_events(jobs[0])):
        seen.append(event.message)
        if number % 30 == 0:
            worker.say("while the list is read")
    assert seen[:120] == [f"event {index}" for index in reversed(range(120))] and len(seen) == 122
    for step in range(1, 26):
        worker.checkpoint(step)
    steps = [checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(jobs[0])]
    assert steps == list(range(25, 0, -1))


def test_errors_have_their_classes_codes_and_one_request_each(client: openai.OpenAI, api_server: ApiServer) -> None:
    requests = count_requests(client)
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve("file-none")
    with pytest.raises(openai.BadRequestError) as bad_file:
        client.files.create(file=("x.jsonl", b"nonsense"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as bad_job:
        client.fine_tuning.jobs.create(model="nothing", training_file="file-none")
    with pytest.raises(openai.AuthenticationError) as wrong_key:
        client.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.PermissionDeniedError) as denied:
        client.models.delete(MODEL)
    body = {"model": MODEL, "training_file": api_server.file_id()}
    key = {"Idempotency-Key": "k"}
    client.fine_tuning.jobs.create(**body, extra_headers=key)
    with pytest.raises(openai.ConflictError) as reused:
        client.fine_tuning.jobs.create(**body, seed=1, extra_headers=key)
    with pytest.raises(openai.APIStatusError) as too_large:
        client.files.create(file=("big.jsonl", b"x" * (51 * 2**20)), purpose="fine-tune")
    found = [caught.value for caught in (missing, bad_file, bad_job, wrong_key, denied, reused, too_large)]
    assert [error.code for error in found] == [
        "not_found",
        "invalid_file",
        "model_not_found",
        "invalid_api_key",
        "insufficient_permissions",
        "idempotency_key_reused",
        "request_too_large",
    ]
    assert all(error.type and error.message and error.request_id for error in found)
    assert bad_job.value.param == "model"
    assert len(requests) == 8


def test_a_lost_answer_and_the_clients_retry_make_one_job(api_settings: ApiSettings) -> None:
    rings: list[str] = []

    def fails_once(job_id: str) -> None:
        rings.append(job_id)
        raise RuntimeError("the answer is lost, the job is stored")

    with (
        serving(api_settings, ring=fails_once) as server,
        openai.OpenAI(base_url=server.base_url, api_key=server.admin_key) as client,
    ):
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=server.file_id())
        assert [job.id] == rings == [each.id for each in client.fine_tuning.jobs.list()]


def test_a_restarted_server_knows_everything(api_settings: ApiSettings) -> None:
    with serving(api_settings) as server:
        job_id, key = server.job_id(), server.admin_key
    with serving(api_settings) as server, openai.OpenAI(base_url=server.base_url, api_key=key) as client:
        assert client.fine_tuning.jobs.retrieve(job_id).status == "queued"


def test_the_async_client(api_server: ApiServer) -> None:
    async def use() -> None:
        async with openai.AsyncOpenAI(
            base_url=api_server.base_url, api_key=api_server.admin_key, _strict_response_validation=True
        ) as client:
            files = await asyncio.gather(
                *(client.files.create(file=(f"{index}.jsonl", labelled()), purpose="fine-tune") for index in range(4))
            )
            jobs = await asyncio.gather(
                *(client.fine_tuning.jobs.create(model=MODEL, training_file=file.id) for file in files)
            )
            listed = [job.id async for job in client.fine_tuning.jobs.list(limit=3)]
            assert sorted(listed) == sorted(job.id for job in jobs)
            cancelled = await client.fine_tuning.jobs.cancel(jobs[0].id)
            assert cancelled.status == "cancelled"
            events = [event.message async for event in client.fine_tuning.jobs.list_events(jobs[0].id, limit=1)]
            assert len(events) == 2 and "cancelled" in events[0]
            assert (await client.files.content(files[0].id)).content == labelled()
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("owner/none")

    asyncio.run(use())
