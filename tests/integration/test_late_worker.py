"""The embedded worker beside the server: when it is up, and what is said while it is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.late_worker import LateWorker
from sgg_core.catalogue import BaseModelEntry, DirectorySource
from worker.child import spawn
from worker.embedded import EmbeddedWorker, start_embedded
from worker.supervisor import Supervisor
from worker.testing import Workbench, eventually

IDLE_TRAINER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    nothing = BaseModelEntry(name="nothing", kind="causal", source=DirectorySource(path=tmp_path))
    made = Workbench(tmp_path / "data", nothing)
    yield made
    made.close()


def test_what_answers_first_waits_for_no_import_of_the_worker() -> None:
    code = (
        "import sys, api.app, cli.main, cli.serve, cli.late_worker\n"
        "late = {'worker', 'celery', 'kombu', 'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not late, late\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_worker_is_ready_once_it_is_up_and_as_long_as_its_parts_live(bench: Workbench) -> None:
    go = threading.Event()

    def make() -> EmbeddedWorker:
        assert go.wait(120)
        return start_embedded(bench.settings, bench.database, bench.objects, Supervisor(lambda: spawn(IDLE_TRAINER)))

    late = LateWorker(make, on_failure=pytest.fail)
    assert "starting" in str(late.problem())
    late.start()
    late.ring("ftjob-1")  # nobody hears it yet
    assert "starting" in str(late.problem())
    go.set()
    eventually(lambda: late.problem() is None)
    late._worker._worker._dispatcher.stop()  # type: ignore[union-attr]
    assert late.problem() == "Its dispatcher stopped; restart the server."
    late.stop()
    assert (
        late.problem()
        == "Its consumer and dispatcher and reaper and cleaner and presence and trials stopped; restart the server."
    )


def test_a_worker_that_cannot_start_ends_the_server_with_its_error() -> None:
    told = threading.Event()

    def fail() -> EmbeddedWorker:
        raise RuntimeError("no trainer here")

    late = LateWorker(fail, on_failure=told.set)
    late.start()
    assert told.wait(120)
    assert "could not start" in str(late.problem())
    with pytest.raises(RuntimeError, match="no trainer here"):
        late.stop()
