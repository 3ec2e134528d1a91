"""A worker lets as many jobs train together as memory is expected to suffice for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sgg_core.tiny import save_tiny_base
from sgg_store.job_state import JobStatus
from worker.embedded import start_embedded
from worker.testing import Workbench

MIB = 2**20
SPEC: dict[str, Any] = {"optimization": {"epochs": 1000, "max_steps": 40, "batch_size": 4}}


@contextmanager
def working(bench: Workbench) -> Iterator[None]:
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    yield
    worker.stop()


def most_at_once(bench: Workbench, job_ids: list[str]) -> int:
    """How many of these jobs, which all succeed, ran at the same moment."""
    assert {bench.wait_for_end(job_id).status for job_id in job_ids} == {JobStatus.SUCCEEDED}
    attempts = [bench.attempts(job_id)[0] for job_id in job_ids]
    return max(
        sum(other.started_at <= attempt.started_at < (other.ended_at or 0) for other in attempts)
        for attempt in attempts
    )


def test_jobs_join_while_memory_suffices_as_soon_as_one_has_told_what_such_jobs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"), jobs_at_once=2, pack_memory_bytes=10 * MIB)
    job_ids = [bench.submit(**SPEC) for _ in range(2)]
    with working(bench):
        assert most_at_once(bench, job_ids) == 2  # nobody knows what they need
    (need,) = {event.data["memory"]["shared"] for event in bench.events(job_ids[0]) if "memory" in event.data}
    assert need > 10 * MIB
    job_ids = [bench.submit(**SPEC) for _ in range(2)]
    with working(bench):
        assert most_at_once(bench, job_ids) == 1
    bench.settings = bench.settings.model_copy(update={"pack_memory_bytes": 20 * need})
    job_ids = [bench.submit(**SPEC) for _ in range(2)]
    with working(bench):
        assert most_at_once(bench, job_ids) == 2
    bench.close()
