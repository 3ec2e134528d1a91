"""Processes die, hang or are told to stop: whose job it was goes on elsewhere, exactly where it was."""

from __future__ import annotations

import signal
import time

from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from tests.faults.running import lives
from tests.faults.site import CHECKPOINT_EVERY, LEASE_SECONDS, Site
from worker.testing import eventually


def test_a_killed_trainer_is_replaced_and_the_job_resumes_exactly(site: Site, reference: str) -> None:
    job_id = site.begin(25)
    victim = site.worker_of(job_id).trainer()
    victim.kill()
    first, second = site.assert_whole(job_id)
    assert (first.state, first.cause) == (AttemptState.FAILED, Cause.CRASHED)
    assert "signal 9" in str(first.detail)
    assert second.start_step >= 20 and second.start_step % CHECKPOINT_EVERY == 0
    assert site.weights(job_id) == reference


def test_a_killed_workers_job_is_taken_over_exactly(team: Site, reference: str) -> None:
    job_id = team.begin(25)
    worker = team.worker_of(job_id)
    trainer = worker.trainer()
    worker.kill()
    eventually(lambda: not lives(trainer), 5)  # a trainer does not outlive its worker
    first, second = team.assert_whole(job_id)
    assert (first.state, first.cause) == (AttemptState.LOST, Cause.LOST)
    assert f":{worker.process.pid}:" in first.owner and f":{worker.process.pid}:" not in second.owner
    assert second.start_step >= 20
    assert team.weights(job_id) == reference


def test_a_frozen_worker_comes_back_as_a_zombie_that_writes_nothing(site: Site, reference: str) -> None:
    job_id = site.begin(25)
    worker = site.worker_of(job_id)
    trainer = worker.trainer()
    worker.freeze()
    time.sleep(LEASE_SECONDS / 4)  # what it had sent by then may still be committed
    frozen = site.bench.attempts(job_id)[0]
    time.sleep(3 * LEASE_SECONDS)
    assert site.bench.database.now() > frozen.lease_expires_at  # it fired: nobody renewed the lease
    worker.thaw()
    attempts = site.assert_whole(job_id)
    assert (attempts[0].state, attempts[0].cause) == (AttemptState.LOST, Cause.LOST)
    assert attempts[0].last_step == frozen.last_step
    eventually(lambda: not lives(trainer), 10)  # its training is nobody's any more
    assert worker.alive
    assert site.weights(job_id) == reference


def test_a_stopped_trainer_is_noticed_killed_and_replaced(second_site: Site, reference: str) -> None:
    job_id = second_site.begin(15)
    worker = second_site.worker_of(job_id)
    trainer = worker.trainer()
    trainer.suspend()
    stopped = len(second_site.bench.attempts(job_id))
    eventually(lambda: not lives(trainer))
    attempts = second_site.assert_whole(job_id)
    assert worker.alive and len(attempts) > stopped
    assert attempts[stopped - 1].cause is Cause.CRASHED
    assert "no progress" in str(attempts[stopped - 1].detail)
    assert attempts[stopped].start_step >= 10
    assert second_site.weights(job_id) == reference


def test_a_worker_that_is_told_to_stop_gives_its_job_back_within_seconds(site: Site, reference: str) -> None:
    job_id = site.begin(10)
    worker = site.worker_of(job_id)
    trainer = worker.trainer()
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert time.monotonic() - began < 15
    assert not lives(trainer)
    first = site.bench.attempts(job_id)[0]
    assert (first.state, first.cause) == (AttemptState.PREEMPTED, Cause.PREEMPTED)
    site.start()
    second = site.assert_whole(job_id)[1]
    assert second.start_step == first.last_step >= 10  # it lost no step
    assert site.weights(job_id) == reference


def test_a_trainer_that_is_killed_again_before_it_got_any_further_fails_its_job(site: Site) -> None:
    job_id = site.submit_request(site.request(800, 800, batch_size=1))
    kill_trainer_in_attempt(1, site, job_id)
    site.ring_soon(job_id)
    kill_trainer_in_attempt(2, site, job_id)
    job = site.bench.wait_for_end(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "poison_job")
    assert [attempt.cause for attempt in site.bench.attempts(job_id)] == [Cause.CRASHED] * 2


def kill_trainer_in_attempt(number: int, site: Site, job_id: str) -> None:
    """Kill the trainer as soon as it has told of a step, and wait until the attempt has ended of it."""
    eventually(lambda: [one for one in site.bench.attempts(job_id) if one.number == number and one.last_step])
    site.worker_of(job_id).trainer().kill()
    eventually(lambda: site.bench.attempts(job_id)[number - 1].state is not AttemptState.RUNNING)
