"""What OpenAI's clients do with files, jobs, checkpoints and models, and what they get."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from api.testing import ApiServer, labelled
from api.webhooks.signing import Signer
from sgg_store.announcements import EVENT_TYPES
from sgg_store.records import WebhookEndpointRecord
from sgg_store.testing import add_job

from .conftest import Client

MODEL = "smollm2-135m-instruct"
SPEC = {"base_model": MODEL, "method": "supervised"}
CONTENT = labelled()
RESULTS = {"metrics.csv": b"step,train_loss\n1,1.0\n", "adapter.tar.gz": b"\x1f\x8b bundle"}


def upload(client: Client, content: bytes = CONTENT, name: str = "train.jsonl") -> Any:
    return client.call("files.create", file=(name, content), purpose="fine-tune")


def create(client: Client, **body: Any) -> Any:
    body = {"model": MODEL} | ({} if "training_file" in body else {"training_file": upload(client).id}) | body
    return client.call("fine_tuning.jobs.create", **body)


@pytest.fixture
def lenient(server: ApiServer) -> Iterator[Client]:
    made = Client(server)
    yield made
    made.close()


def test_files_are_made_listed_read_waited_for_and_deleted(client: Client, tmp_path: Path) -> None:
    file = upload(client)
    assert (file.object, file.filename, file.bytes) == ("file", "train.jsonl", len(CONTENT))
    assert client.call("files.retrieve", file.id) == file
    assert client.call("files.wait_for_processing", file.id, max_wait_seconds=5).status == "processed"
    assert client.call("files.content", file.id).content == CONTENT
    more = [upload(client).id for _ in range(3)]
    listed = [one.id for one in client.all("files.list", limit=2, order="asc", purpose="fine-tune")]
    assert listed[-4:] == [file.id, *more]
    assert client.call("files.delete", file.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.call("files.retrieve", file.id)


def test_a_job_is_made_retrieved_and_found_by_its_metadata(client: Client) -> None:
    mark = f"{time.time_ns()}"
    job = create(
        client,
        suffix="mine",
        seed=7,
        metadata={"mark": mark, "a b": "c&d"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert (job.object, job.status, job.seed, job.metadata["mark"]) == ("fine_tuning.job", "queued", 7, mark)
    again = client.call("fine_tuning.jobs.retrieve", job.id)
    assert (again.id, again.metadata, again.method) == (job.id, job.metadata, job.method)
    assert [one.id for one in client.all("fine_tuning.jobs.list", metadata={"mark": mark})] == [job.id]
    assert client.all("fine_tuning.jobs.list", metadata={"mark": mark, "a b": "other"}) == []
    bare = create(client)
    for null in ("null", ""):
        unmarked = {one.id: one for one in client.all("fine_tuning.jobs.list", extra_query={"metadata": null}, limit=5)}
        assert bare.id in unmarked and not any(one.metadata for one in unmarked.values())
    assert client.call("fine_tuning.jobs.cancel", job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        client.call("fine_tuning.jobs.cancel", job.id)
    assert caught.value.code == "invalid_job_status"


def complaints(error: openai.APIResponseValidationError) -> set[str | int]:
    """The fields of an answer that a strict client does not take."""
    assert isinstance(error.__cause__, pydantic.ValidationError)
    return {problem["loc"][0] for problem in error.__cause__.errors()}


def test_a_job_is_paused_and_resumed(client: Client, lenient: Client) -> None:
    job = create(client)
    try:
        assert client.call("fine_tuning.jobs.pause", job.id).status == "paused"
        assert not client.strict
    except openai.APIResponseValidationError as error:
        assert client.strict  # OpenAI's description has no `paused`, although its own examples show it
        assert complaints(error) == {"status"}
    assert lenient.call("fine_tuning.jobs.retrieve", job.id).status == "paused"
    assert client.call("fine_tuning.jobs.resume", job.id).status == "queued"


def test_our_own_method_passes_and_its_answer_arrives(client: Client, lenient: Client) -> None:
    source, mark = upload(client).id, f"{time.time_ns()}"
    method = {"type": "sgg", "sgg": {"hyperparameters": {"guidance": {"radius": 0.1}}, "sources": [source]}}
    try:
        create(client, method=method, metadata={"mark": mark})
        assert not client.strict
    except openai.APIResponseValidationError as error:
        assert client.strict and complaints(error) == {"method"}
    (job,) = lenient.all("fine_tuning.jobs.list", metadata={"mark": mark})
    answered = lenient.call("fine_tuning.jobs.retrieve", job.id).to_dict()
    assert answered["method"]["sgg"]["hyperparameters"]["guidance"]["radius"] == 0.1
    assert answered["sgg"]["sources"] == [source]


def test_a_job_from_its_first_step_to_its_files(client: Client, server: ApiServer) -> None:
    job = create(client, validation_file=upload(client, labelled(2)).id)
    worker = server.claim(job.id)
    worker.step(2)
    worker.say("half way")
    worker.checkpoint(2)
    running = client.call("fine_tuning.jobs.retrieve", job.id)
    assert (running.status, running.finished_at) == ("running", None)
    assert client.all("fine_tuning.jobs.list_events", job.id)[0].message == "half way"
    (checkpoint,) = client.all("fine_tuning.jobs.checkpoints.list", job.id)
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (2, 0.5)
    assert client.call("models.retrieve", checkpoint.fine_tuned_model_checkpoint).object == "model"
    worker.succeed(RESULTS)
    done = client.call("fine_tuning.jobs.retrieve", job.id)
    assert done.status == "succeeded" and done.fine_tuned_model
    assert [client.call("files.content", each).content for each in done.result_files] == list(RESULTS.values())
    assert done.fine_tuned_model in [model.id for model in client.all("models.list")]
    assert client.call("models.retrieve", done.fine_tuned_model).id == done.fine_tuned_model
    assert client.call("models.delete", done.fine_tuned_model).deleted is True


def test_a_failed_job_says_why(client: Client, server: ApiServer) -> None:
    job = create(client)
    server.claim(job.id).fail("training_diverged", "The loss became NaN.")
    error = client.call("fine_tuning.jobs.retrieve", job.id).error
    assert (error.code, error.message, error.param) == ("training_diverged", "The loss became NaN.", None)


def test_a_hundred_jobs_come_page_by_page_while_new_ones_arrive(client: Client, server: ApiServer) -> None:
    mark = f"{time.time_ns()}"
    with server.database.begin() as session:
        file = add_job(session, base_model=MODEL, spec=SPEC).training_file_id
        values = {"training_file_id": file, "base_model": MODEL, "spec": SPEC}
        made = [add_job(session, user_metadata={"mark": mark}, **values).id for _ in range(110)]
    seen = []
    for number, job in enumerate(client.each("fine_tuning.jobs.list", limit=20, metadata={"mark": mark})):
        seen.append(job.id)
        if number % 50 == 10:
            with server.database.begin() as session:
                add_job(session, user_metadata={"mark": mark}, **values)
    assert len(seen) == len(set(seen)) == 110 and set(seen) == set(made)


def test_events_and_checkpoints_come_page_by_page_while_new_ones_arrive(client: Client, server: ApiServer) -> None:
    job = create(client)
    worker = server.claim(job.id)
    worker.say(*(f"event {number}" for number in range(130)))
    seen = []
    for number, event in enumerate(client.each("fine_tuning.jobs.list_events", job.id)):
        seen.append(event.message)
        if number % 40 == 10:
            worker.say("meanwhile")
    assert seen[:130] == [f"event {number}" for number in reversed(range(130))] and len(seen) == 132
    for step in range(1, 106):
        worker.checkpoint(step)
    steps = []
    for checkpoint in client.each("fine_tuning.jobs.checkpoints.list", job.id):
        steps.append(checkpoint.step_number)
        if checkpoint.step_number == 60:
            worker.checkpoint(200)
    assert steps == list(range(105, 0, -1))


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        (b"", False),
        (b"\xef\xbb\xbf" + CONTENT, True),
        (CONTENT.replace(b"\n", b"\r\n"), True),
        (CONTENT + '{"text": "größer", "label": "good"}\n'.encode("latin-1"), False),
        (CONTENT + '{"text": "größer", "label": "good"}\n'.encode(), True),
    ],
    ids=["empty", "BOM", "CRLF", "Latin-1", "UTF-8"],
)
def test_odd_files(client: Client, content: bytes, accepted: bool) -> None:
    if accepted:
        assert upload(client, content).bytes == len(content)
        return
    with pytest.raises(openai.BadRequestError) as caught:
        upload(client, content)
    assert (caught.value.code, caught.value.param) == ("invalid_file", "file")


def test_files_that_are_too_large_are_refused(client: Client) -> None:
    with pytest.raises(openai.APIStatusError) as announced:
        client.call("uploads.create", bytes=512 * 2**20 + 1, filename="t", mime_type="text/jsonl", purpose="fine-tune")
    with pytest.raises(openai.APIStatusError) as sent:
        upload(client, b"x" * (51 * 2**20))
    for caught in (announced, sent):
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_uploads_in_parts(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(CONTENT)
    source: dict[str, Any] = {"file": path}
    if openai.__version__.startswith("1."):  # which leaves a file open that it was given by its path
        source = {"file": CONTENT, "filename": path.name, "bytes": len(CONTENT)}
    options = source | {"mime_type": "text/jsonl", "purpose": "fine-tune", "part_size": 300}
    digest = hashlib.md5(CONTENT).hexdigest()
    whole = client.call("uploads.upload_file_chunked", **options, md5=digest)
    assert whole.status == "completed" and client.call("files.content", whole.file.id).content == CONTENT
    with pytest.raises(openai.BadRequestError) as caught:
        client.call("uploads.upload_file_chunked", **options, md5="0" * 32)
    assert (caught.value.code, caught.value.param) == ("upload_checksum_mismatch", "md5")
    begun = client.call("uploads.create", bytes=9, filename="t", mime_type="text/jsonl", purpose="fine-tune")
    assert client.call("uploads.cancel", begun.id).status == "cancelled"


def test_a_file_in_use_is_not_deleted(client: Client) -> None:
    job = create(client)
    with pytest.raises(openai.BadRequestError) as caught:
        client.call("files.delete", job.training_file)
    assert caught.value.code == "file_in_use" and job.id in caught.value.message


def test_the_usual_cleaning_up_of_files_leaves_the_models(client: Client, server: ApiServer) -> None:
    job = create(client)
    worker = server.claim(job.id)
    worker.checkpoint(2)
    model = worker.succeed(RESULTS)
    metrics, adapter = client.call("fine_tuning.jobs.retrieve", job.id).result_files
    (checkpoint,) = client.all("fine_tuning.jobs.checkpoints.list", job.id)
    files = [file["file_id"] for file in checkpoint.model_extra["sgg"]["files"]]
    for file_id, name in ((adapter, model), *((each, checkpoint.fine_tuned_model_checkpoint) for each in files)):
        with pytest.raises(openai.BadRequestError) as caught:
            client.call("files.delete", file_id)
        assert (caught.value.code, caught.value.param) == ("file_in_use", "file_id")
        assert f"Delete the model, and the file goes with it: DELETE /v1/models/{name}." in caught.value.message
        assert client.call("models.retrieve", name).id == name
    assert client.call("files.delete", metrics).deleted and client.call("files.delete", job.training_file).deleted
    for name in (model, checkpoint.fine_tuned_model_checkpoint):
        assert client.call("models.delete", name).deleted
        with pytest.raises(openai.NotFoundError):
            client.call("models.retrieve", name)
    assert {adapter, *files}.isdisjoint(one.id for one in client.all("files.list"))


def test_permissions_of_checkpoints(client: Client, server: ApiServer) -> None:
    job = create(client)
    server.claim(job.id).checkpoint(3)
    server.new_key(project_id="proj-friend")
    (checkpoint,) = client.all("fine_tuning.jobs.checkpoints.list", job.id)
    path, name = "fine_tuning.checkpoints.permissions", checkpoint.fine_tuned_model_checkpoint
    (granted,) = client.all(f"{path}.create", name, project_ids=["proj-friend"])
    listing = "list" if hasattr(client._method(path), "list") else "retrieve"  # the older client's name for it
    found = client.call(f"{path}.{listing}", name).data
    assert [one.id for one in found] == [granted.id]
    assert client.call(f"{path}.delete", granted.id, fine_tuned_model_checkpoint=name).deleted is True


def test_graders_are_refused_in_words(client: Client) -> None:
    grader = {"type": "string_check", "name": "g", "input": "a", "reference": "b", "operation": "eq"}
    for method, more in (("validate", {}), ("run", {"model_sample": "x"})):
        with pytest.raises(openai.BadRequestError) as caught:
            client.call(f"fine_tuning.alpha.graders.{method}", grader=grader, **more)
        assert caught.value.code == "not_offered"
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}})
    assert caught.value.code == "unsupported_method"


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "responses.create": ({"model": MODEL, "input": "x"}, "/v1/chat/completions"),
    "embeddings.create": ({"model": MODEL, "input": "x"}, "/v1/classifications"),
    "batches.create": (
        {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        "sgg predict",
    ),
    "evals.create": ({"data_source_config": {"type": "logs"}, "testing_criteria": []}, "/report"),
}


@pytest.mark.parametrize("path", ASKED)
def test_what_scripts_call_beside_fine_tuning_names_the_way_here(client: Client, path: str) -> None:
    body, remedy = ASKED[path]
    with pytest.raises(openai.BadRequestError) as caught:
        client.call(path, **body)
    assert caught.value.code == "not_offered" and remedy in caught.value.message


def test_webhooks_unwrap(client: Client, server: ApiServer) -> None:
    signer = Signer(b"s" * 32)
    endpoint = WebhookEndpointRecord(id="whep_1", secret_version=1, rotated_at=None)
    secret = signer.secret(endpoint.id, 1)
    for type_ in EVENT_TYPES:
        body = f'{{"id":"evt_1","object":"event","created_at":1,"type":"{type_}","data":{{"id":"ftjob-1"}}}}'
        headers = signer.headers(endpoint, "evt_1", body.encode(), time.time())
        event = client.raw.webhooks.unwrap(body, headers, secret=secret)
        assert (event.id, event.type, event.data.id) == ("evt_1", type_, "ftjob-1")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.raw.webhooks.unwrap(body + " ", headers, secret=secret)
