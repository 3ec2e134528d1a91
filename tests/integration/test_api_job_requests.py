"""Creating jobs over HTTP: what is refused, all of it at once, and what a repeated request does."""

from __future__ import annotations

from typing import Any

import pytest

from api.testing import ApiServer, jsonl, labelled
from sgg_core.spec import TrainingSpec
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID

MODEL = "smollm2-135m-instruct"
CHAT = jsonl({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})


def sgg(sources: tuple[str, ...] = (), **hyperparameters: Any) -> dict[str, Any]:
    return {"type": "sgg", "sgg": {"hyperparameters": hyperparameters, "sources": list(sources)}}


def problems(server: ApiServer, **body: Any) -> dict[str, str]:
    response = server.create_job(**body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    found = error["sgg"]["problems"]
    assert (error["param"], error["code"]) == (found[0]["param"], found[0]["code"])
    assert all(problem["message"] in error["message"] for problem in found)
    with server.http() as http:
        assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
    return {problem["param"]: problem["message"] for problem in found}


def stored_spec(server: ApiServer, job_id: str) -> TrainingSpec:
    with server.database.read() as session:
        return TrainingSpec.model_validate(Jobs(session).get(DEFAULT_PROJECT_ID, job_id).spec)


def test_a_plain_request_makes_a_supervised_job_and_rings(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    job = api_server.job(job_id)
    assert api_server.rings == [job_id]
    assert (job["status"], job["model"], job["sgg"]["queue_position"]) == ("queued", MODEL, 1)
    assert job["hyperparameters"] == {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["method"]["type"] == "supervised" and set(job["method"]) == {"type", "supervised"}
    assert "guidance" not in job["method"]["supervised"]["hyperparameters"]
    assert stored_spec(api_server, job_id) == TrainingSpec(base_model=MODEL, method="supervised", seed=job["seed"])


def test_every_setting_reaches_the_training_spec(api_server: ApiServer) -> None:
    method = sgg(
        (api_server.file_id(),),
        n_epochs=3,
        batch_size=4,
        learning_rate_multiplier=0.5,
        learning_rate=0.001,
        max_steps=7,
        warmup_fraction=0.2,
        weight_decay=0.01,
        clip_norm=None,
        task={"description": "Say what it is."},
        lora={"rank": 2, "targets": ["q_proj"]},
        guidance={"radius": 0.1, "alignment": 0.2},
        evaluation={"every_steps": 2},
        checkpoint={"every_steps": 3},
        resources={"gpus": 2},
    )
    job_id = api_server.job_id(method=method, seed=7, suffix="mine", metadata={"a": "b"})
    spec = stored_spec(api_server, job_id)
    optimization = spec.optimization
    assert (optimization.epochs, optimization.batch_size, optimization.learning_rate_multiplier) == (3, 4, 0.5)
    assert (optimization.learning_rate, optimization.max_steps, optimization.warmup_fraction) == (0.001, 7, 0.2)
    assert (optimization.weight_decay, optimization.clip_norm) == (0.01, None)
    assert (spec.method, spec.seed, spec.lora.rank, spec.lora.targets) == ("sgg", 7, 2, ("q_proj",))
    assert (spec.guidance.radius, spec.guidance.alignment, spec.guidance.magnitude) == (0.1, 0.2, 0.7)
    assert (spec.evaluation.every_steps, spec.checkpoint.every_steps, spec.resources.gpus) == (2, 3, 2)
    assert spec.task.description == "Say what it is."


def test_the_method_of_a_job_can_be_sent_again_and_means_the_same(api_server: ApiServer) -> None:
    first = api_server.job_id(method=sgg(n_epochs=2, guidance={"radius": 0.3}), seed=1)
    job = api_server.job(first)
    again = api_server.job_id(method=job["method"], seed=1)
    assert stored_spec(api_server, again) == stored_spec(api_server, first)
    assert job["method"]["sgg"]["hyperparameters"]["guidance"]["radius"] == 0.3


def test_the_older_place_of_hyperparameters_counts_unless_there_is_a_method(api_server: ApiServer) -> None:
    older = api_server.job_id(hyperparameters={"n_epochs": 4})
    supervised = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5}}}
    both = api_server.job_id(hyperparameters={"n_epochs": 4}, method=supervised)
    assert stored_spec(api_server, older).optimization.epochs == 4
    assert stored_spec(api_server, both).optimization.epochs == 5


def test_a_seed_is_drawn_if_none_is_given(api_server: ApiServer) -> None:
    seeds = {api_server.job(api_server.job_id())["seed"] for _ in range(3)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("hyperparameters", "name", "says"),
    [
        ({"n_epoch": 3}, "n_epoch", "'n_epochs'"),
        ({"epochs": 3}, "epochs", "'n_epochs'"),
        ({"n_epochs": 1001}, "n_epochs", "less than or equal to 1000"),
        ({"n_epochs": 0}, "n_epochs", "greater than or equal to 1"),
        ({"batch_size": 257}, "batch_size", "256"),
        ({"batch_size": "many"}, "batch_size", "'auto'"),
        ({"learning_rate": -1}, "learning_rate", "greater than 0"),
        ({"learning_rate_multiplier": 0}, "learning_rate_multiplier", "greater than 0"),
        ({"lora": {"rnk": 2}}, "lora.rnk", "'rank'"),
        ({"lora": 3}, "lora", "it is 3"),
        ({"guidance": {"variant": "sam"}}, "guidance.variant", "'finite_difference', 'exact', 'momentum' or 'off'"),
    ],
)
def test_a_wrong_hyperparameter_is_named_with_what_is_right(
    api_server: ApiServer, hyperparameters: dict[str, Any], name: str, says: str
) -> None:
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=sgg(**hyperparameters))
    assert list(found) == [f"method.sgg.hyperparameters.{name}"]
    assert says in next(iter(found.values()))


def test_more_steps_than_any_few_shot_training_needs_are_refused(api_server: ApiServer) -> None:
    endless = {"n_epochs": 50, "batch_size": 1, "learning_rate": [n / 100 for n in range(1, 11)], "seeds": 10}
    found = problems(
        api_server,
        model=MODEL,
        training_file=api_server.file_id(labelled(150)),
        validation_file=api_server.file_id(),
        method=sgg(**endless),
    )
    assert list(found) == ["method.sgg.hyperparameters.n_epochs"]
    assert "1,500,000 steps; at most 1,000,000" in found["method.sgg.hyperparameters.n_epochs"]


def test_sources_without_guidance_are_refused(api_server: ApiServer) -> None:
    method = sgg((api_server.file_id(),), guidance={"variant": "off"})
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=method)
    assert list(found) == ["method.sgg.sources"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"metadata": {str(index): "" for index in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
        ({"method": {"sgg": {}}}, "method.type"),
        ({"trainingfile": "x"}, "trainingfile"),
        ({"hyperparameters": {"n_epochs": 1}, "method": {"type": "sgg"}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        (
            {"method": {"type": "sgg", "sgg": {"hyperparameters": {"batch_size": True}}}},
            "method.sgg.hyperparameters.batch_size",
        ),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"training_file": ["a"]}, "training_file"),
        ({"method": {"type": "sgg", "sgg": {"sources": ["f"] * 17}}}, "method.sgg.sources"),
    ],
)
def test_a_wrong_parameter_is_named(api_server: ApiServer, body: dict[str, Any], param: str) -> None:
    complete = {"model": MODEL, "training_file": api_server.file_id()} | body
    assert param in problems(api_server, **complete)


def test_an_unknown_model_is_answered_with_the_known_ones(api_server: ApiServer) -> None:
    found = problems(api_server, model="smollm2", training_file=api_server.file_id())
    assert MODEL in found["model"] and "all-minilm-l6-v2" in found["model"]


def test_everything_that_is_wrong_comes_at_once(api_server: ApiServer) -> None:
    found = problems(
        api_server,
        model="nothing",
        training_file="file-unknown",
        validation_file=api_server.file_id(),
        seed=-1,
        sufix="x",
        method=sgg(learning_rate=-1, n_epoch=2),
    )
    hyperparameters = "method.sgg.hyperparameters"
    expected = {"model", "training_file", "seed", "sufix", f"{hyperparameters}.learning_rate"}
    assert set(found) == expected | {f"{hyperparameters}.n_epoch"}


def test_data_and_settings_are_judged_together(api_server: ApiServer) -> None:
    found = problems(
        api_server,
        model="all-minilm-l6-v2",
        training_file=api_server.file_id(CHAT),
        validation_file=api_server.file_id(),
        method=sgg(guidance={"alignment": 0.5}),
    )
    assert set(found) == {"model", "validation_file", "method.sgg.hyperparameters.guidance.alignment"}
    assert "encoder" in found["model"]
    assert "classification examples" in found["validation_file"]


def test_one_label_cannot_be_learned(api_server: ApiServer) -> None:
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(labelled(4, ["only"])))
    assert "only" in found["training_file"] and "other label" in found["training_file"]


def test_validation_labels_must_occur_in_training(api_server: ApiServer) -> None:
    validation = api_server.file_id(labelled(2, ["good", "awful"]), "valid.jsonl")
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), validation_file=validation)
    assert "'awful'" in found["validation_file"] and "bad, good" in found["validation_file"]


def test_the_task_must_be_the_files(api_server: ApiServer) -> None:
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=sgg(task={"type": "chat"}))
    assert "classification" in found["method.sgg.hyperparameters.task.type"]


def test_the_objective_must_suit_the_base_model(api_server: ApiServer) -> None:
    method = sgg(task={"objective": "contrast"})
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=method)
    assert "encoder" in found["method.sgg.hyperparameters.task.objective"]
    encoder = api_server.create_job(model="all-minilm-l6-v2", training_file=api_server.file_id(), method=method)
    assert encoder.status_code == 200, encoder.text


def test_contrast_needs_balanced_batches(api_server: ApiServer) -> None:
    method = sgg(task={"objective": "contrast"}, balanced_batches=False)
    found = problems(api_server, model="all-minilm-l6-v2", training_file=api_server.file_id(), method=method)
    assert "balanced_batches" in found["method.sgg.hyperparameters.task.objective"]


def test_what_belongs_to_sgg_is_refused_elsewhere(api_server: ApiServer) -> None:
    settings = {"hyperparameters": {"guidance": {}}, "sources": [api_server.file_id()]}
    method = {"type": "supervised", "supervised": settings, "sgg": {}}
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=method)
    assert set(found) == {"method.sgg", "method.supervised.sources", "method.supervised.hyperparameters.guidance"}


def test_what_needs_a_validation_file_is_refused_without_one(api_server: ApiServer) -> None:
    method = sgg(evaluation={"patience": 2, "keep": "best"}, learning_rate=[0.001, 0.01])
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(), method=method)
    path = "method.sgg.hyperparameters"
    assert set(found) == {f"{path}.evaluation.patience", f"{path}.evaluation.keep", f"{path}.learning_rate"}
    valid = api_server.file_id(labelled(2))
    api_server.job_id(validation_file=valid, method=method)
    api_server.job_id(method=sgg(learning_rate=[0.001, 0.01], folds=2))


def test_a_file_that_is_too_small_for_its_folds_is_refused_with_what_is_missing(api_server: ApiServer) -> None:
    rows = labelled(6) + b'{"text": "hello", "label": "greeting"}\n'
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(rows), method=sgg(folds=3))
    assert set(found) == {"training_file"} and "greeting" in found["training_file"]
    found = problems(api_server, model=MODEL, training_file=api_server.file_id(labelled(2)), method=sgg(folds=9))
    assert "cannot be split into 9 folds" in found["training_file"]


def test_files_of_another_project_do_not_exist(api_server: ApiServer) -> None:
    foreign = api_server.file_id(key=api_server.new_key(project_id="proj-other"))
    found = problems(
        api_server, model=MODEL, training_file=foreign, validation_file=foreign, method=sgg((foreign, "file-none"))
    )
    assert set(found) == {"training_file", "validation_file", "method.sgg.sources"}
    assert f"no file with the id '{foreign}'" in found["training_file"]


def test_results_are_not_training_data(api_server: ApiServer) -> None:
    job_id = api_server.job_id()
    api_server.claim(job_id).succeed({"metrics.csv": b"step\n"})
    result = api_server.job(job_id)["result_files"][0]
    response = api_server.create_job(model=MODEL, training_file=result)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_file")


@pytest.mark.parametrize("text", ["nul \x00 byte", "lone \ud800 surrogate", "\U0001f600", "='x'"])
def test_no_text_makes_a_server_error(api_server: ApiServer, text: str) -> None:
    file_id = api_server.file_id()
    for body in (
        {"suffix": text},
        {"metadata": {"k": text}},
        {"metadata": {text: "v"}},
        {"model": text},
        {"training_file": text},
        {text: 1},
        {"method": sgg(task={"description": text})},
        {"method": {"type": text}},
    ):
        response = api_server.create_job(**({"model": MODEL, "training_file": file_id} | body))
        assert response.status_code in (200, 400), (body, response.text)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"seed": NaN}'])
def test_a_body_that_is_no_json_object_is_the_callers_fault(api_server: ApiServer, content: bytes) -> None:
    with api_server.http() as http:
        headers = {"content-type": "application/json"}
        response = http.post("/v1/fine_tuning/jobs", content=content, headers=headers)
    assert response.status_code == 400
    assert set(response.json()["error"]) >= {"message", "type", "param", "code"}


def test_a_huge_json_body_is_refused(api_server: ApiServer) -> None:
    response = api_server.create_job(model=MODEL, training_file="f", suffix="x" * 2**21)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_the_same_idempotency_key_and_body_give_the_same_job(api_server: ApiServer) -> None:
    body = {"model": MODEL, "training_file": api_server.file_id()}
    headers = {"Idempotency-Key": "once"}
    first, second = (api_server.create_job(headers=headers, **body).json() for _ in range(2))
    assert first["id"] == second["id"] and api_server.rings == [first["id"]]
    with api_server.http() as http:  # also when what the request names is gone
        http.post(f"/v1/fine_tuning/jobs/{first['id']}/cancel")
        http.delete(f"/v1/files/{body['training_file']}")
    third = api_server.create_job(headers=headers, **body).json()
    assert (third["id"], third["status"]) == (first["id"], "cancelled")


def test_an_idempotency_key_with_another_body_is_refused_for_good(api_server: ApiServer) -> None:
    body = {"model": MODEL, "training_file": api_server.file_id()}
    headers = {"Idempotency-Key": "once"}
    first = api_server.create_job(headers=headers, **body).json()
    response = api_server.create_job(headers=headers, **body, seed=1)
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert first["id"] in response.json()["error"]["message"]


def test_a_clients_own_retry_gets_the_job_of_its_first_try(api_server: ApiServer) -> None:
    body = {"model": MODEL, "training_file": api_server.file_id()}
    first = api_server.create_job(headers={"x-stainless-retry-count": "0"}, **body).json()["id"]
    retried = api_server.create_job(headers={"x-stainless-retry-count": "1"}, **body).json()["id"]
    assert retried == first
    assert api_server.create_job(headers={"x-stainless-retry-count": "1"}, **body, seed=1).json()["id"] != first
    assert api_server.create_job(headers={"x-stainless-retry-count": "0"}, **body).json()["id"] != first
    other_key = api_server.new_key()
    assert api_server.create_job(other_key, {"x-stainless-retry-count": "1"}, **body).json()["id"] != first
