"""Jobs that start from earlier weights, over HTTP: how these are named, what fits, and what is refused in words."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from api.testing import ApiServer, labelled
from sgg_store.checkpoints import Checkpoints
from sgg_store.errors import FileOfModelError, ModelInUseError
from sgg_store.files import Files
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.models import Models
from sgg_store.records import CheckpointRecord

MODEL = "smollm2-135m-instruct"
RESULTS = {"metrics.csv": b"step\n1\n", "adapter.tar.gz": b"\x1f\x8b bundle"}
LAYER = "base_model.model.model.layers.0.self_attn"


def adapter(rank: int = 4, metadata: dict[str, str] | None = None, targets: tuple[str, ...] = ("q_proj",)) -> bytes:
    """A safetensors file with LoRA weights of zeros."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for target in targets:
        for side, shape in (("A", [rank, 8]), ("B", [8, rank])):
            offsets = [at, at + 4 * rank * 8]
            header[f"{LAYER}.{target}.lora_{side}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            at = offsets[1]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def sgg(**settings: Any) -> dict[str, Any]:
    return {"type": "sgg", "sgg": settings}


def lora_of(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["method"]["sgg"]["hyperparameters"]["lora"])


def problems(server: ApiServer, **body: Any) -> list[tuple[str, str]]:
    defaults = {"model": MODEL, "training_file": server.file_id()}
    response = server.create_job(**(defaults | body))
    assert response.status_code == 400, response.text
    found = response.json()["error"]["sgg"]["problems"]
    assert all(problem["message"] for problem in found)
    return [(problem["param"], problem["code"]) for problem in found]


@pytest.fixture
def earlier(api_server: ApiServer) -> dict[str, Any]:
    """A succeeded job with rank 4 and a checkpoint at step 3."""
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
    job_id = api_server.job_id(method=sgg(hyperparameters={"lora": lora}))
    worker = api_server.claim(job_id)
    worker.checkpoint(3)
    worker.succeed(RESULTS)
    return api_server.job(job_id)


def test_every_name_of_earlier_weights_is_understood(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    model, checkpoint = earlier["fine_tuned_model"], earlier["sgg"]["last_checkpoint"]
    training_file = api_server.file_id()
    for name in (model, checkpoint["name"], checkpoint["id"]):
        response = api_server.create_job(model=MODEL, training_file=training_file, method=sgg(start_from=name))
        assert response.status_code == 200, response.text
        job = response.json()
        assert (job["model"], job["method"]["sgg"]["start_from"]) == (MODEL, name)
        assert (lora_of(job)["rank"], lora_of(job)["alpha"], lora_of(job)["targets"]) == (4, 8, ["q_proj", "v_proj"])
        with api_server.database.begin() as session:
            claim = Leases(session).claim(job["id"], "w")
        assert claim is not None and claim.start is not None and claim.start_name == name
        expected = earlier["result_files"][1] if name == model else checkpoint["id"]
        assert claim.start.id == expected


def test_openais_client_trains_a_fine_tuned_model_further(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    with openai.OpenAI(
        base_url=api_server.base_url, api_key=api_server.admin_key, _strict_response_validation=True
    ) as client:
        file_id = api_server.file_id()
        for name in (earlier["fine_tuned_model"], earlier["sgg"]["last_checkpoint"]["name"]):
            job = client.fine_tuning.jobs.create(model=name, training_file=file_id)
            assert job.model == MODEL
            assert job.method is not None
            assert job.method.to_dict()["supervised"]["start_from"] == name  # type: ignore[index]


def test_an_uploaded_adapter_brings_its_shape_and_must_be_told_its_scale(api_server: ApiServer) -> None:
    told = api_server.upload(adapter(metadata={"sgg": '{"alpha": 12}'}), "mine.safetensors").json()
    assert (told["sgg"]["kind"], told["sgg"]["rank"], told["sgg"]["targets"]) == ("adapter", 4, ["q_proj"])
    response = api_server.create_job(
        model=MODEL, training_file=api_server.file_id(), method=sgg(start_from=told["id"], hyperparameters={})
    )
    assert lora_of(response.json()) == {"rank": 4, "alpha": 12.0, "dropout": 0.0, "targets": ["q_proj"]}
    plain = api_server.file_id(adapter(), "plain.safetensors")
    assert problems(api_server, method=sgg(start_from=plain)) == [
        ("method.sgg.hyperparameters.lora.alpha", "invalid_value")
    ]
    good = sgg(start_from=plain, hyperparameters={"lora": {"alpha": 16}})
    assert api_server.create_job(model=MODEL, training_file=api_server.file_id(), method=good).status_code == 200


def test_what_does_not_fit_is_told_at_once(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    name = earlier["fine_tuned_model"]
    settings = sgg(start_from=name, hyperparameters={"lora": {"rank": 8, "alpha": 8}})
    assert problems(api_server, method=settings) == [("method.sgg.hyperparameters.lora.rank", "invalid_starting_point")]
    assert ("model", "invalid_starting_point") in problems(
        api_server, model="all-minilm-l6-v2", method=sgg(start_from=name)
    )
    assert problems(api_server, model=name, method=sgg(start_from=name)) == [
        ("method.sgg.start_from", "conflicting_parameters"),
        ("model", "model_not_found"),
    ]


@pytest.mark.parametrize("name", ["ft:no:such:model", "ft:a:b:c:0123abcd:ckpt-step-3", "ftckpt_1", "file-1", "what"])
def test_what_is_not_there_is_told_with_the_kinds_that_could_be(api_server: ApiServer, name: str) -> None:
    assert problems(api_server, method=sgg(start_from=name)) == [("method.sgg.start_from", "starting_point_not_found")]
    if name.startswith("ft:"):
        assert problems(api_server, model=name) == [("model", "starting_point_not_found")]


def test_weights_of_other_projects_are_not_there(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    key = api_server.new_key(project_id="proj-other")
    file_id = api_server.file_id(key=key)
    last = earlier["sgg"]["last_checkpoint"]
    for name in (earlier["fine_tuned_model"], last["name"], last["id"], earlier["result_files"][1]):
        response = api_server.create_job(key=key, model=MODEL, training_file=file_id, method=sgg(start_from=name))
        assert response.json()["error"]["code"] == "starting_point_not_found"


def test_examples_and_adapters_are_not_taken_for_each_other(api_server: ApiServer) -> None:
    lora, examples = api_server.file_id(adapter(), "a.safetensors"), api_server.file_id()
    assert problems(api_server, training_file=lora) == [("training_file", "invalid_file")]
    assert problems(api_server, method=sgg(start_from=examples)) == [
        ("method.sgg.start_from", "invalid_starting_point")
    ]


@pytest.mark.parametrize("content", [b"\x80\x04\x95pickle", b"PK\x03\x04zip", labelled(), adapter()[:-1]])
def test_only_plain_lora_weights_are_accepted_as_an_adapter(api_server: ApiServer, content: bytes) -> None:
    response = api_server.upload(content, "adapter_model.safetensors")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_file", "file")
    assert "adapter_model.safetensors" in error["message"]


def test_what_a_waiting_job_starts_from_stays(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    bundle, checkpoint = earlier["result_files"][1], earlier["sgg"]["last_checkpoint"]["id"]
    training_file = api_server.file_id()
    for name in (earlier["fine_tuned_model"], checkpoint):
        api_server.job_id(training_file=training_file, method=sgg(start_from=name))
    with api_server.database.begin() as session:
        with pytest.raises(FileOfModelError):
            Files(session).delete(DEFAULT_PROJECT_ID, bundle)
        for model in (earlier["fine_tuned_model"], earlier["sgg"]["last_checkpoint"]["name"]):
            with pytest.raises(ModelInUseError), session.begin_nested():
                Models(session, DEFAULT_PROJECT_ID).delete(model)
        assert Checkpoints(session).outdated(-10.0) == []
        assert session.get(CheckpointRecord, checkpoint) is not None


def test_a_start_that_is_gone_fails_the_job_in_words(api_server: ApiServer, earlier: dict[str, Any]) -> None:
    checkpoint = earlier["sgg"]["last_checkpoint"]
    job_id = api_server.job_id(method=sgg(start_from=checkpoint["name"]))
    with api_server.database.begin() as session:
        session.delete(session.get_one(CheckpointRecord, checkpoint["id"]))
    with api_server.database.begin() as session:
        assert Leases(session).claim(job_id, "w") is None
    job = api_server.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "starting_point_not_found")
    assert checkpoint["name"] in job["error"]["message"] and job["sgg"]["failure"]["remedy"]
