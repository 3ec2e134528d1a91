"""The database goes away, comes back, or changes under a running job."""

from __future__ import annotations

import time

from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from tests.faults.conftest import Servers
from tests.faults.running import lives
from tests.faults.site import LEASE_SECONDS, Site
from worker.testing import eventually


def test_a_database_that_restarts_costs_no_attempt(team: Site, servers: Servers, reference: str) -> None:
    job_id = team.begin(15)
    began = time.monotonic()
    servers.postgres.stop()
    servers.postgres.start()
    away = time.monotonic() - began
    assert team.bench.job(job_id).status is JobStatus.RUNNING  # it fired in the middle of the training
    # on a machine so slow that this took as long as a lease can do without, another attempt is right
    assert len(team.assert_whole(job_id)) == 1 or away > LEASE_SECONDS / 3
    assert team.weights(job_id) == reference


def test_a_database_that_goes_away_between_claim_and_training_fails_no_job(
    team: Site, servers: Servers, reference: str
) -> None:
    team.arm(Failpoint.JOB_CLAIMED, "hold")
    job_id = team.submit()
    team.wait_until_fired(Failpoint.JOB_CLAIMED)
    servers.postgres.stop()
    team.release(Failpoint.JOB_CLAIMED)
    eventually(lambda: "the attempt met an error" in team.log())
    servers.postgres.start()
    attempts = team.assert_whole(job_id)
    assert attempts[0].cause in (Cause.DATABASE, Cause.LOST)
    assert team.weights(job_id) == reference


def test_a_database_away_for_longer_than_the_lease_stops_the_trainer_first(
    team: Site, servers: Servers, reference: str
) -> None:
    job_id = team.begin(15)
    worker = team.worker_of(job_id)
    trainer = worker.trainer()
    lease_ends = team.bench.attempts(job_id)[0].lease_expires_at
    servers.postgres.stop()
    eventually(lambda: not lives(trainer), 2 * LEASE_SECONDS)
    # the database was on this clock, and a last heartbeat may have come after the lease was read
    assert time.time() < lease_ends + LEASE_SECONDS / 4
    time.sleep(LEASE_SECONDS)
    servers.postgres.start()
    attempts = team.assert_whole(job_id)
    assert attempts[0].cause in (Cause.LOST, Cause.DATABASE)
    assert attempts[0].state in (AttemptState.LOST, AttemptState.FAILED)
    assert worker.alive
    assert team.weights(job_id) == reference


def test_a_database_that_takes_no_writes_for_longer_than_the_lease_delays_jobs_and_nothing_else(
    team: Site, servers: Servers, reference: str
) -> None:
    job_id = team.begin(15)
    worker = team.worker_of(job_id)
    trainer = worker.trainer()
    with servers.postgres.refusing_writes():
        eventually(lambda: not lives(trainer), 2 * LEASE_SECONDS)
        with team.http() as http:
            assert http.get(f"/v1/fine_tuning/jobs/{job_id}").status_code == 200
            refused = http.post("/v1/fine_tuning/jobs", json=team.request())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        time.sleep(LEASE_SECONDS)  # all who reap have met it by now
    attempts = team.assert_whole(job_id)
    assert attempts[0].cause in (Cause.LOST, Cause.DATABASE)
    assert worker.alive
    assert team.weights(job_id) == reference
