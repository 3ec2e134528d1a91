"""What computes for long does so in threads, where it does not keep other requests waiting, and few at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.dependencies import READING_THREADS
from api.jobs import endpoints as jobs
from api.jobs.examples import ExamplesOut
from api.previews import service as previews
from api.testing import ApiServer
from api.trials import reading
from sgg_core.evidence import Doubt
from sgg_core.report import EXAMPLES
from sgg_store.objects import report_key


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/fine_tuning/preview", previews),
        ("/v1/chat/completions", reading),
        ("/v1/completions", reading),
        ("/v1/classifications", reading),
    ],
)
def test_bodies_are_checked_in_threads(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, path: str, where: Any
) -> None:
    describe, seen = where.problems_of_model, []

    def seen_describe(*given: Any) -> Any:
        seen.append(threading.current_thread().name)
        return describe(*given)

    monkeypatch.setattr(where, "problems_of_model", seen_describe)
    with api_server.http() as http:
        assert http.post(path, json={"unknown": 1}).status_code == 400
    assert len(seen) == 1 and "AnyIO worker thread" in seen[0]


def test_few_files_of_examples_are_read_at_once(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), 0, 0

    examples = jobs.examples

    def slow(*given: Any, **named: Any) -> ExamplesOut:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return examples(*given, **named)

    monkeypatch.setattr(jobs, "examples", slow)
    job_id = api_server.job_id()
    worker = api_server.claim(job_id)
    worker.succeed({})
    doubt = Doubt(
        line=3, label="a", suspicion=0.5, predicted_label="b", gradient_agreement=None, reason="Others say b."
    )
    api_server.objects.put(report_key(worker.lease, EXAMPLES), doubt.model_dump_json().encode())

    def ask(_: int) -> tuple[int, Any]:
        with api_server.http() as http:
            answer = http.get(f"/v1/fine_tuning/jobs/{job_id}/examples")
            return answer.status_code, [each["line"] for each in answer.json()["data"]]

    with ThreadPoolExecutor(8) as asking:
        assert list(asking.map(ask, range(8))) == [(200, [3])] * 8
    assert most == READING_THREADS
