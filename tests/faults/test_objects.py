"""Storage stops, fills up, or gives back other bytes than it was given."""

from __future__ import annotations

import resource

from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.records import CheckpointRecord
from sgg_store.retries import Cause
from tests.faults.conftest import Servers
from tests.faults.site import CHECKPOINT_EVERY, Site
from worker.checkpoint_transfer import MANIFEST
from worker.testing import eventually

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def checkpoints(site: Site, job_id: str) -> list[CheckpointRecord]:
    with site.bench.database.read() as session:
        query = session.query(CheckpointRecord).where(CheckpointRecord.job_id == job_id)
        return query.order_by(CheckpointRecord.step.desc()).all()


def test_a_checkpoint_whose_upload_was_cut_off_is_garbage_and_nothing_else(site: Site, reference: str) -> None:
    job_id = site.begin(CHECKPOINT_EVERY + 1)
    worker = site.worker_of(job_id)
    site.arm(Failpoint.CHECKPOINT_HALF_STORED, "kill")
    site.wait_until_fired(Failpoint.CHECKPOINT_HALF_STORED)
    assert worker.process.wait(10) < 0
    newest = checkpoints(site, job_id)[0].step
    site.start()
    first, second = site.assert_whole(job_id)
    assert (first.state, second.start_step) == (AttemptState.LOST, newest)
    folder = f"jobs/{job_id}/attempts/1-{first.token}/checkpoints/step-{newest + CHECKPOINT_EVERY:08d}"
    assert site.objects_under(folder) and f"{folder}/{MANIFEST}" not in site.objects_under(folder)
    assert site.weights(job_id) == reference


def test_a_checkpoint_with_one_changed_byte_is_set_aside_for_the_one_before(site: Site, reference: str) -> None:
    job_id = site.submit()
    worker = site.worker_of(job_id)
    eventually(lambda: len(checkpoints(site, job_id)) >= 2)
    site.arm(Failpoint.CHECKPOINT_HALF_STORED, "kill")
    site.wait_until_fired(Failpoint.CHECKPOINT_HALF_STORED)
    assert worker.process.wait(10) < 0  # whoever resumes finds the newest one as follows
    newest, before = checkpoints(site, job_id)[:2]
    key = f"{newest.object_prefix}/state.safetensors"
    content = bytearray(b"".join(site.bench.objects.open(key)))
    content[len(content) // 2] ^= 1
    site.bench.objects.put(key, bytes(content), create_only=False)
    assert len(site.bench.attempts(job_id)) == 1  # nobody was faster
    site.start()
    attempts = site.assert_whole(job_id)
    assert attempts[1].start_step == before.step
    (row,) = [each for each in checkpoints(site, job_id) if each.id == newest.id]
    # set aside, or stored anew by the attempt that passed it again
    assert row.damaged or row.object_prefix != newest.object_prefix
    told = f"The checkpoint of step {newest.step} cannot be used: it is damaged. "
    assert f"{told}Training starts from step {before.step}." in [event.message for event in site.bench.events(job_id)]
    assert site.weights(job_id) == reference


def test_a_full_disk_is_told_and_costs_no_step_that_was_saved(site: Site, reference: str) -> None:
    site.arm(Failpoint.JOB_CLAIMED, "hold")
    job_id = site.submit()
    site.wait_until_fired(Failpoint.JOB_CLAIMED)
    trainer = site.worker_of(job_id).trainer()
    resource.prlimit(
        trainer.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY)
    )  # files fail as on a full disk
    site.release(Failpoint.JOB_CLAIMED)
    [first] = eventually(lambda: [one for one in site.bench.attempts(job_id) if one.state is not AttemptState.RUNNING])
    assert first.cause is Cause.STORAGE
    assert site.bench.job(job_id).status is JobStatus.QUEUED
    told = site.bench.events(job_id)[-1]
    assert told.level == "warn" and "space" in told.message and "free" in told.message
    resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, UNLIMITED)
    site.ring_soon(job_id)
    assert len(site.assert_whole(job_id)) == 2
    assert site.weights(job_id) == reference


def test_an_object_store_that_stops_during_an_upload_delays_the_job_and_nothing_else(
    team: Site, servers: Servers, reference: str
) -> None:
    job_id = team.begin(CHECKPOINT_EVERY + 1)
    team.arm(Failpoint.CHECKPOINT_HALF_STORED, "hold")
    team.wait_until_fired(Failpoint.CHECKPOINT_HALF_STORED)
    servers.s3.kill()
    team.release(Failpoint.CHECKPOINT_HALF_STORED)
    [first] = eventually(lambda: [one for one in team.bench.attempts(job_id) if one.state is not AttemptState.RUNNING])
    assert first.cause is Cause.STORAGE
    told = team.bench.events(job_id)[-1].message
    assert "does not answer" in told and "127.0.0.1" not in told  # no caller needs to know where it is
    assert team.bench.job(job_id).status is JobStatus.QUEUED
    servers.s3.start()
    team.ring_soon(job_id)
    second = team.assert_whole(job_id)[1]
    assert second.start_step >= CHECKPOINT_EVERY
    assert team.weights(job_id) == reference
