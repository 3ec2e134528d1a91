"""What only the embedded service meets: its one process is everything, and its database is one file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from sgg_core.catalogue import BaseModelEntry
from sgg_core.report import REPORT
from sgg_store.database import Database
from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.objects import open_object_store
from sgg_store.records import JobRecord
from sgg_store.reports import key_of_report
from tests.faults.invariants import check_invariants
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


def test_a_server_that_is_killed_resumes_by_itself_without_waiting_for_the_lease(
    tiny: BaseModelEntry, tmp_path: Path, reference: str
) -> None:
    lease = {"SGG_LEASE_SECONDS": "600"}  # nobody has time to wait for it
    with closing(Site(tmp_path, tiny, environment=lease)) as site, site.in_use():
        running = site.begin(25)
        waiting = site.submit()
        assert site.api is not None
        trainer = site.api.trainer()
        site.api.kill()
        eventually(lambda: not lives(trainer), 10)
        statuses = [site.bench.job(job_id).status for job_id in (running, waiting)]
        assert statuses == [JobStatus.RUNNING, JobStatus.QUEUED]
        site.start()
        first, second = site.assert_whole(running)
        assert (first.state, second.start_step >= 20) == (AttemptState.LOST, True)
        assert len(site.assert_whole(waiting)) == 1
        assert {site.weights(running), site.weights(waiting)} == {reference}


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_server_killed_after_plain_lora_ran_does_not_train_it_again(embedded_site: Site, seeds: int) -> None:
    with embedded_site.in_use() as site:
        wanted = {"seeds": seeds, "evaluation": {"baselines": ["plain_lora"]}}
        body = site.request(12, 6, **wanted) | {"validation_file": site.upload(TWO_LABELS)}
        site.arm(Failpoint.RESULT_STORED, "kill")
        job_id = site.submit_request(body)
        site.wait_until_fired(Failpoint.RESULT_STORED)
        assert site.api is not None
        site.api.process.wait(60)
        site.start()
        job = site.bench.wait_for_end(job_id)
        assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
        assert site.bench.steps(job_id) == list(range(1, 12 * seeds + 1))
        assert site.bench.attempts(job_id)[-1].start_step == 12 * seeds
        begun = [event for event in site.bench.events(job_id) if "comparison: step 1 of 12" in event.message]
        assert len(begun) == seeds
        saved = [event for event in site.bench.events(job_id) if event.message.startswith("Checkpoint saved")]
        steps = [event.data["step"] for event in saved]
        assert len(steps) == len(set(steps))  # the one with the comparison has words of its own
        with site.bench.database.read() as session:
            key = key_of_report(session, job, REPORT)
        assert key is not None
        report = json.loads(b"".join(site.bench.objects.open(key)))
        assert "plain_lora" in [baseline["name"] for baseline in report["baselines"]]


def test_eight_writers_of_one_sqlite_file_take_turns(sqlite_url: str, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    command = [sys.executable, "-c", WRITER, sqlite_url, str(objects), str(JOBS_EACH)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(WRITERS)]
    ends = [(writer.communicate()[1], writer.returncode) for writer in writers]
    assert ends == [("", 0)] * WRITERS
    database = Database(sqlite_url)
    with database.read() as session:
        succeeded = select(func.count()).where(JobRecord.status == JobStatus.SUCCEEDED)
        assert session.execute(succeeded).scalar_one() == WRITERS * JOBS_EACH
    check_invariants(database, open_object_store(str(objects)), {})
    database.dispose()


def test_a_second_server_on_the_same_data_is_refused_while_the_first_one_lives(embedded_site: Site) -> None:
    with embedded_site.in_use() as site:
        command = [sys.executable, "-m", "cli.main", "serve", "--port", "0"]
        second = subprocess.run(
            command, env=site.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode not in (0, -signal.SIGKILL)
        assert str(site.workers[0].process.pid) in second.stderr
