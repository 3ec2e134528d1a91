"""Trying models out over HTTP, answered by a real worker and its predictor, on tiny base models."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from sqlalchemy import func, select, update

from api.settings import ApiSettings
from api.testing import ApiServer, jsonl, serving
from api.trials import desk
from api.trials.desk import LOOK_SECONDS
from sgg_core.catalogue import Catalogue
from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from sgg_store.records import AuditRecord, TrialRecord, database_now
from sgg_store.trials import SILENT_SECONDS, Trials
from sgg_store.workers import Presence, Workers
from worker.embedded import EmbeddedWorker, start_embedded
from worker.testing import TWO_LABELS, Workbench, eventually

CHATS = jsonl(
    *(
        {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word}]}
        for word in ("one", "two", "three", "four")
    )
)
PROMPTS = jsonl(*({"prompt": f"number {n}:", "completion": f" {n}"} for n in range(4)))
SAY_X = [{"role": "user", "content": "x"}]
QUICK = {"optimization": {"max_steps": 2, "batch_size": 4}, "checkpoint": {"every_steps": 2}}


@dataclass
class Site:
    bench: Workbench
    worker: EmbeddedWorker
    server: ApiServer
    labels: str
    chat: str
    prompts: str
    encoder: str

    def ask(self, path: str, key: str | None = None, **body: Any) -> httpx.Response:
        with self.server.http(key) as http:
            return http.post(f"/v1/{path}", json=body)

    def trials(self) -> int:
        with self.bench.database.read() as session:
            return session.execute(select(func.count()).select_from(TrialRecord)).scalar_one()

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.server.base_url, api_key=self.server.admin_key, **options)


def trained(bench: Workbench, worker: EmbeddedWorker, training: bytes, **spec: Any) -> str:
    job_id = bench.submit(training, **(QUICK | spec))
    worker.ring(job_id)
    job = bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    return str(job.fine_tuned_model)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        bench = Workbench(directory / "data", save_tiny_base(directory / "causal"))
        Catalogue.load(bench.settings.data_dir).add(save_tiny_base(directory / "encoder", "encoder"))
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        names = {
            "labels": trained(bench, worker, TWO_LABELS),
            "chat": trained(bench, worker, CHATS),
            "prompts": trained(bench, worker, PROMPTS),
            "encoder": trained(bench, worker, TWO_LABELS, base_model="tiny-encoder"),
        }
        with serving(ApiSettings(data_dir=bench.settings.data_dir)) as server:
            yield Site(bench, worker, server, **names)
        worker.stop()
        bench.close()


def refusal(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert error["message"].endswith(("?", "."))
    return response.status_code, error["code"], error["param"]


@pytest.mark.parametrize("which", ["labels", "encoder"])
def test_a_fine_tuned_model_gives_its_labels_with_probabilities(site: Site, which: str) -> None:
    model = getattr(site, which)
    texts = ["fine and good", {"text": "poor", "text_pair": "and bad"}]
    answer = site.ask("classifications", model=model, input=texts).json()
    assert (answer["object"], answer["model"]) == ("classification", model)
    assert [each["index"] for each in answer["results"]] == [0, 1]
    for each in answer["results"]:
        assert set(each["probabilities"]) == {"good", "bad"}
        assert sum(each["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
        assert each["probabilities"][each["label"]] == max(each["probabilities"].values())
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 10
    one = site.ask("classifications", model=model, input="fine and good").json()
    assert one["results"][0]["probabilities"] == pytest.approx(answer["results"][0]["probabilities"], abs=1e-4)


def test_the_answer_is_that_of_the_downloaded_adapter(site: Site, tmp_path: Path) -> None:
    import tarfile

    from sgg_core.predictor import load_predictor

    with site.server.http() as http:
        bundle = http.get(f"/v1/models/{site.labels}").json()["sgg"]["result_files"][-1]
        (tmp_path / "bundle").write_bytes(http.get(f"/v1/files/{bundle}/content").content)
    with tarfile.open(tmp_path / "bundle") as archive:
        archive.extractall(tmp_path / "adapter", filter="data")
    predictor = load_predictor(tmp_path / "adapter", catalogue=Catalogue.load(site.bench.settings.data_dir))
    local = next(iter(predictor.predict([{"text": "fine and good"}])))
    bare = site.ask("classifications", model="tiny-causal", input="fine and good", labels=["good", "bad"]).json()
    told = site.ask("classifications", model=site.labels, input="fine and good").json()["results"][0]
    assert told["probabilities"] == pytest.approx(local["probabilities"], abs=1e-5)
    assert told["probabilities"] != pytest.approx(bare["results"][0]["probabilities"], abs=1e-5)


@pytest.mark.parametrize("which", ["labels", "encoder"])
def test_the_checkpoint_of_the_last_step_answers_as_the_model_does(site: Site, which: str) -> None:
    model = getattr(site, which)
    told = [
        site.ask("classifications", model=name, input=["fine and good", "poor"]).json()["results"]
        for name in (model, f"{model}:ckpt-step-2")
    ]
    for of_model, of_checkpoint in zip(*told, strict=True):
        assert of_checkpoint["probabilities"] == pytest.approx(of_model["probabilities"], abs=1e-5)
    missing = site.ask("classifications", model=f"{model}:ckpt-step-9", input="x")
    assert refusal(missing) == (404, "model_not_found", "model")


def test_the_checkpoint_of_a_chat_chats(site: Site) -> None:
    asked = {"messages": SAY_X, "max_tokens": 5, "temperature": 0}
    answers = [
        site.ask("chat/completions", model=name, **asked).json()["choices"]
        for name in (site.chat, f"{site.chat}:ckpt-step-2")
    ]
    assert answers[0] == answers[1]
    refused = site.ask("classifications", model=f"{site.chat}:ckpt-step-2", input="x")
    assert refusal(refused) == (400, "wrong_endpoint", "model")


def test_openais_client_finds_the_best_checkpoint_by_its_loss(site: Site) -> None:
    every_step = {"evaluation": {"every_steps": 1}, "checkpoint": {"every_steps": 1}}
    job_id = site.bench.submit(TWO_LABELS, TWO_LABELS, **(QUICK | every_step))
    site.worker.ring(job_id)
    site.bench.wait_for_end(job_id)
    with site.client() as client:
        saved = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    best = min(saved, key=lambda each: each.metrics.valid_loss or float("nan"))
    assert len(saved) == 2 and best.metrics.full_valid_loss == best.metrics.valid_loss
    assert best.metrics.valid_loss == min(each.metrics.full_valid_loss or 0 for each in saved)


def test_openais_client_chats(site: Site) -> None:
    asked: Any = {"model": site.chat, "messages": [{"role": "user", "content": "say one"}], "seed": 3, "max_tokens": 12}
    with site.client(_strict_response_validation=True) as client:
        whole = client.chat.completions.create(**asked)
        assert (whole.object, whole.model, len(whole.choices)) == ("chat.completion", site.chat, 1)
        assert whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason in ("stop", "length")
        assert whole.usage is not None and 0 < whole.usage.completion_tokens <= 12
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    written = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert written == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_openais_client_completes(site: Site) -> None:
    asked: Any = {"model": site.prompts, "prompt": "number 1:", "seed": 5, "max_tokens": 8}
    with site.client(_strict_response_validation=True) as client:
        whole = client.completions.create(**asked)
        assert (whole.object, whole.choices[0].index) == ("text_completion", 0)
        assert client.completions.create(**(asked | {"temperature": 0})) is not None
        first = client.completions.create(model="tiny-causal", prompt="abc", temperature=0, max_tokens=16)
        assert first.usage is not None and first.usage.prompt_tokens == 3
        text = first.choices[0].text
        place = next(place for place in range(1, len(text)) if text[place] not in text[:place])
        asked_to_stop: Any = {"prompt": "abc", "temperature": 0, "max_tokens": 16, "stop": text[place]}
        cut = client.completions.create(model="tiny-causal", **asked_to_stop)
        assert (cut.choices[0].text, cut.choices[0].finish_reason) == (text[:place], "stop")
    with site.client() as client:  # the strict one refuses OpenAI's own chunks, whose finish_reason is null
        chunks = list(client.completions.create(stream=True, **asked))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_the_async_client_streams(site: Site) -> None:
    async def use() -> None:
        async with openai.AsyncOpenAI(base_url=site.server.base_url, api_key=site.server.admin_key) as client:
            asked: Any = {"model": "tiny-causal", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
            streams = [await client.chat.completions.create(stream=True, **asked) for _ in range(3)]
            for stream in streams:
                assert [chunk async for chunk in stream][-1].choices[0].finish_reason is not None

    asyncio.run(use())


@pytest.mark.parametrize(
    ("path", "model", "body", "expected"),
    [
        ("classifications", "chat", {"input": "x"}, (400, "wrong_endpoint", "model")),
        ("classifications", "prompts", {"input": "x"}, (400, "wrong_endpoint", "model")),
        (
            "chat/completions",
            "labels",
            {"messages": SAY_X},
            (400, "wrong_endpoint", "model"),
        ),
        ("completions", "chat", {"prompt": "x"}, (400, "wrong_endpoint", "model")),
        ("completions", "encoder", {"prompt": "x"}, (400, "wrong_endpoint", "model")),
        ("classifications", "labels", {"input": "x", "labels": ["a", "b"]}, (400, "conflicting_parameters", "labels")),
        ("completions", "prompts", {"prompt": "x" * 1024}, (400, "context_length_exceeded", None)),
        ("completions", "prompts", {"prompt": "x" * 20_000}, (400, "invalid_value", "prompt")),
    ],
)
def test_what_a_model_cannot_answer_is_refused_in_words(
    site: Site, path: str, model: str, body: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    assert refusal(site.ask(path, model=getattr(site, model), **body)) == expected


@pytest.mark.parametrize("model", ["no-such-model", "ft:tiny-causal:default::00000000"])
def test_a_model_that_is_not_there_is_404(site: Site, model: str) -> None:
    assert refusal(site.ask("classifications", model=model, input="x")) == (404, "model_not_found", "model")


def test_a_model_of_another_project_is_404(site: Site) -> None:
    stranger = site.server.new_key(["models:try"], project_id="proj-stranger")
    assert refusal(site.ask("classifications", stranger, model=site.labels, input="x"))[:2] == (404, "model_not_found")
    assert site.ask("classifications", stranger, model="tiny-causal", input="x", labels=["a", "b"]).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"frequency_penalty": 0.5}, "unsupported_parameter", "frequency_penalty"),
        ({"user": "me"}, "unsupported_parameter", "user"),
        ({"temprature": 0}, "invalid_value", "temprature"),
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"max_tokens": 513}, "invalid_value", "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "invalid_value", "messages.0.name"),
        ({"stream_options": {"include_usage": True}}, "conflicting_parameters", "stream_options"),
    ],
)
def test_a_parameter_that_has_no_effect_is_an_error_that_names_it(
    site: Site, body: dict[str, Any], code: str, param: str
) -> None:
    whole = {"model": "tiny-causal", "messages": [{"role": "user", "content": "x"}]} | body
    assert refusal(site.ask("chat/completions", **whole)) == (400, code, param)


def test_parameters_that_ask_for_nothing_are_taken(site: Site) -> None:
    nothing = {"n": 1, "frequency_penalty": 0, "tools": None, "logprobs": False, "stop": None, "stream": False}
    asked = {"model": "tiny-causal", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 1}
    assert site.ask("chat/completions", **asked, **nothing).status_code == 200


def test_trials_leave_no_rows_and_no_entries_in_the_audit_log(site: Site) -> None:
    with site.bench.database.read() as session:
        before = session.execute(select(func.count()).select_from(AuditRecord)).scalar_one()
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200
    with site.bench.database.read() as session:
        assert session.execute(select(func.count()).select_from(AuditRecord)).scalar_one() == before
    assert eventually(lambda: site.trials() == 0)


def test_a_caller_that_goes_away_frees_its_place(site: Site) -> None:
    body = {"model": "tiny-causal", "prompt": "x", "max_tokens": 512, "temperature": 0, "stream": True}
    with site.server.http() as http, http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
        assert site.trials() == 1
    eventually(lambda: site.trials() == 0, seconds=30)
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ranks processes for the end")
def test_the_predictor_is_the_first_that_goes_where_memory_is_short(site: Site) -> None:
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200
    assert Path(f"/proc/{site.worker.predictor_pid}/oom_score_adj").read_text().strip() == "1000"


def test_a_predictor_that_dies_gives_its_caller_a_503_and_the_next_one_an_answer(site: Site) -> None:
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200
    pid = site.worker.predictor_pid
    assert pid is not None
    process = psutil.Process(pid)
    process.suspend()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(site.ask, "classifications", model=site.labels, input="x")
        eventually(lambda: site.trials() == 1)
        time.sleep(0.3)
        process.kill()
        response = waiting.result(timeout=30)
    assert refusal(response)[:2] == (503, "trial_failed") and response.headers["retry-after"]
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200


@dataclass
class Hurried:
    """A server that gives each trial a second, and the means to hold up who answers."""

    client: openai.OpenAI
    predictor: psutil.Process
    requests: list[httpx.Request]


@pytest.fixture
def hurried(site: Site) -> Iterator[Hurried]:
    assert site.ask("classifications", model=site.labels, input="x").status_code == 200
    assert site.worker.predictor_pid is not None
    predictor = psutil.Process(site.worker.predictor_pid)
    requests: list[httpx.Request] = []
    http = httpx.Client(event_hooks={"request": [requests.append]}, trust_env=False)
    settings = ApiSettings(data_dir=site.bench.settings.data_dir, trial_seconds=1.0)
    with serving(settings) as server:
        with openai.OpenAI(base_url=server.base_url, api_key=server.admin_key, http_client=http) as client:
            yield Hurried(client, predictor, requests)
        predictor.resume()


LONG: dict[str, Any] = {"model": "tiny-causal", "messages": SAY_X, "max_tokens": 512, "temperature": 0}


def test_a_text_whose_time_is_over_ends_with_what_is_written(hurried: Hurried) -> None:
    def slowly() -> None:
        while not asked.done():
            hurried.predictor.suspend()
            time.sleep(0.05)
            hurried.predictor.resume()
            time.sleep(0.02)

    with ThreadPoolExecutor() as pool:
        asked = pool.submit(hurried.client.chat.completions.create, **LONG)
        pool.submit(slowly).result(timeout=30)
        whole = asked.result()
    assert whole.choices[0].message.content and whole.choices[0].finish_reason == "length"
    assert whole.usage is not None and 0 < whole.usage.completion_tokens < 512
    assert len(hurried.requests) == 1


def test_a_stream_whose_time_is_over_ends_with_what_is_written(hurried: Hurried) -> None:
    pieces: list[str] = []
    for chunk in hurried.client.chat.completions.create(stream=True, **LONG):
        pieces.append(chunk.choices[0].delta.content or "")
        if pieces[-1]:
            hurried.predictor.suspend()
    assert "".join(pieces) and chunk.choices[0].finish_reason == "length"


def test_a_trial_that_wrote_nothing_in_its_time_says_what_to_change_and_is_not_repeated(hurried: Hurried) -> None:
    hurried.predictor.suspend()
    with pytest.raises(openai.InternalServerError) as caught:
        hurried.client.chat.completions.create(**LONG)
    assert (caught.value.status_code, caught.value.code) == (503, "trial_overdue")
    assert "not finished within 1 seconds. Ask for fewer tokens, or raise SGG_TRIAL_SECONDS." in caught.value.message
    assert len(hurried.requests) == 1


def trials_of(server: ApiServer) -> int:
    """How many wait or are answered."""
    with server.database.read() as session:
        return session.scalar(select(func.count()).select_from(TrialRecord)) or 0


def test_without_a_worker_a_caller_is_told_so_in_time_and_a_full_queue_says_what_trials_are_for(
    api_settings: ApiSettings,
) -> None:
    settings = api_settings.model_copy(update={"trial_seconds": 3.0, "max_trials_of_project": 1})
    asked = {"model": "smollm2-135m-instruct", "prompt": "x"}
    with serving(settings) as server, server.http() as http, ThreadPoolExecutor() as pool:
        began = time.monotonic()
        waiting = pool.submit(http.post, "/v1/completions", json=asked)
        eventually(lambda: trials_of(server) == 1, seconds=5)
        full = http.post("/v1/completions", json=asked)
        unanswered = waiting.result(timeout=20)
        assert time.monotonic() - began < 15
        assert refusal(unanswered)[:2] == (503, "trial_failed") and "retry-after" in unanswered.headers
        assert refusal(full)[:2] == (429, "trial_queue_full") and full.headers["retry-after"] == "5"
        assert "production" in full.json()["error"]["message"]
        assert full.json()["error"]["type"] == "rate_limit_error"


def test_a_server_that_stops_does_not_wait_for_trials(api_settings: ApiSettings) -> None:
    asked = {"model": "smollm2-135m-instruct", "prompt": "x"}
    with ThreadPoolExecutor() as pool, serving(api_settings) as server, server.http() as http:
        waiting = pool.submit(http.post, "/v1/completions", json=asked)
        eventually(lambda: trials_of(server) == 1, seconds=5)
        server.stop()
        assert refusal(waiting.result(timeout=30))[:2] == (503, "trial_failed")


def test_a_worker_that_falls_silent_in_the_middle_gives_its_caller_a_503(api_settings: ApiSettings) -> None:
    asked = {"model": "smollm2-135m-instruct", "prompt": "x"}
    with serving(api_settings) as server, server.http() as http, ThreadPoolExecutor() as pool:
        waiting = pool.submit(http.post, "/v1/completions", json=asked)

        def taken() -> TrialRecord | None:
            with server.database.begin() as session:
                trial_id = Trials(session).next_waiting((), 0.0)
                return Trials(session).claim(trial_id) if trial_id else None

        trial = eventually(taken, seconds=30)
        with server.database.begin() as session:
            silence = update(TrialRecord).where(TrialRecord.id == trial.id)
            session.execute(silence.values(heard_at=database_now() - SILENT_SECONDS - 1))
        answer = waiting.result(timeout=30)
        assert refusal(answer)[:2] == (503, "trial_failed")
        assert "stopped responding" in answer.json()["error"]["message"]


def test_where_no_worker_answers_trials_a_caller_is_told_so_within_seconds(
    api_settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "NOBODY_SECONDS", 2.0)
    asked = {"model": "smollm2-135m-instruct", "prompt": "x"}
    silent = Presence("w", "here", 1, "0", answers_trials=False)
    with serving(api_settings) as server, server.http() as http:
        with server.database.begin() as session:
            Workers(session).enter(silent)
        began = time.monotonic()
        answer = http.post("/v1/completions", json=asked)
        assert 2.0 < time.monotonic() - began < 20 < api_settings.trial_seconds
        assert refusal(answer)[:2] == (503, "trial_failed") and "retry-after" in answer.headers
        message = answer.json()["error"]["message"]
        assert "No worker answers trials" in message and "`sgg worker`" in message
        assert "SGG_TRIAL_MEMORY_BYTES" in message
        with server.database.begin() as session:  # one that does, and is busy
            Workers(session).beat(replace(silent, answers_trials=True), draining=False)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(http.post, "/v1/completions", json=asked)
            time.sleep(2.0 + 3 * LOOK_SECONDS)
            assert not waiting.done() and trials_of(server) == 1
            server.stop()
            assert "stopping" in waiting.result(timeout=20).json()["error"]["message"]
