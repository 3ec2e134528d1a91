"""What only the embedded service meets: its one process is everything, and its database is one file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from sgg_core.report import REPORT
from sgg_store.database import Database
from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.objects import open_object_store
from sgg_store.records import AttemptRecord, JobRecord
from sgg_store.reports import key_of_report
from tests.faults.invariants import check_invariants, most_at_once
from tests.faults.running import ROOT, lives
from tests.faults.site import Site
from worker.testing import TWO_LABELS, eventually

WRITERS, JOBS_EACH = 8, 5
WRITER = """
import sys
from sgg_store import ids
from sgg_store.database import Database
from sgg_store.events import Events, NewEvent
from sgg_store.files import Files
from sgg_store.leases import JobResult, Leases
from sgg_store.objects import open_object_store, result_key
from sgg_store.testing import add_job

database, objects = Database(sys.argv[1]), open_object_store(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    with database.begin() as session:
        job_id = add_job(session).id
    with database.begin() as session:
        lease = Leases(session).claim(job_id, "writer").lease
    for _ in range(20):
        with database.begin() as session:
            Leases(session).heartbeat(lease, 1)
            Events(session).append(lease, [NewEvent("hello")])
    key, file_id = result_key(lease, "metrics.csv"), ids.new_id("file-")
    objects.put(key, b"")
    with database.begin() as session:
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        Files(session).add(file_id=file_id, project_id=lease.project_id, filename="metrics.csv",
                           purpose="fine-tune-results", bytes=0, sha256=empty, object_key=key)
        Leases(session).succeed(lease, JobResult(
            fine_tuned_model=f"ft:{job_id}", trained_tokens=1, result_file_ids=(file_id,)))
"""


def test_a_server_that_is_killed_resumes_by_itself_without_waiting_for_the_lease(alone: Site, reference: str) -> None:
    running = alone.begin(25)
    waiting = alone.submit()
    assert alone.api is not None
    trainer = alone.api.trainer()
    alone.api.kill()
    eventually(lambda: not lives(trainer), 10)
    with alone.bench.database.begin() as session:  # nobody has time to wait for it
        longer = {"lease_expires_at": alone.bench.database.now() + 3600}
        session.execute(update(AttemptRecord).where(AttemptRecord.job_id == running).values(longer))
    statuses = [alone.bench.job(job_id).status for job_id in (running, waiting)]
    assert statuses == [JobStatus.RUNNING, JobStatus.QUEUED]
    alone.start()
    first, second = alone.assert_whole(running)
    assert (first.state, second.start_step >= 20) == (AttemptState.LOST, True)
    assert len(alone.assert_whole(waiting)) == 1
    assert {alone.weights(running), alone.weights(waiting)} == {reference}


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_server_killed_after_plain_lora_ran_does_not_train_it_again(alone: Site, seeds: int) -> None:
    wanted = {"seeds": seeds, "evaluation": {"baselines": ["plain_lora"]}}
    body = alone.request(12, 6, **wanted) | {"validation_file": alone.upload(TWO_LABELS)}
    alone.arm(Failpoint.RESULT_STORED, "kill")
    job_id = alone.submit_request(body)
    alone.wait_until_fired(Failpoint.RESULT_STORED)
    assert alone.api is not None
    alone.api.process.wait(60)
    alone.start()
    job = alone.bench.wait_for_end(job_id)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert alone.bench.steps(job_id) == list(range(1, 12 * seeds + 1))
    assert alone.bench.attempts(job_id)[-1].start_step == 12 * seeds
    begun = [event for event in alone.bench.events(job_id) if "comparison: step 1 of 12" in event.message]
    assert len(begun) == seeds
    saved = [event for event in alone.bench.events(job_id) if event.message.startswith("Checkpoint saved")]
    steps = [event.data["step"] for event in saved]
    assert len(steps) == len(set(steps))  # the one with the comparison has words of its own
    with alone.bench.database.read() as session:
        key = key_of_report(session, job, REPORT)
    assert key is not None
    report = json.loads(b"".join(alone.bench.objects.open(key)))
    assert "plain_lora" in [baseline["name"] for baseline in report["baselines"]]


def test_eight_writers_of_one_sqlite_file_take_turns(sqlite_url: str, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    command = [sys.executable, "-c", WRITER, sqlite_url, str(objects), str(JOBS_EACH)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    writers = [subprocess.Popen(command, text=True, cwd=ROOT, **pipes) for _ in range(WRITERS)]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * WRITERS
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("begin\n")
        writer.stdin.flush()
    ends = [(*writer.communicate(), writer.returncode) for writer in writers]
    assert ends == [("", "", 0)] * WRITERS
    database = Database(sqlite_url)
    assert most_at_once(database) > WRITERS // 2
    with database.read() as session:
        succeeded = select(func.count()).where(JobRecord.status == JobStatus.SUCCEEDED)
        assert session.execute(succeeded).scalar_one() == WRITERS * JOBS_EACH
    check_invariants(database, open_object_store(str(objects)), {})
    database.dispose()


def test_a_second_server_on_the_same_data_is_refused_while_the_first_one_lives(alone: Site) -> None:
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0"]
    second = subprocess.run(
        command, env=alone.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode not in (0, -signal.SIGKILL)
    assert str(alone.workers[0].process.pid) in second.stderr
