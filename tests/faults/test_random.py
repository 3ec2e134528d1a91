"""Everything goes wrong at random for a while, and every job still ends once. A seed that failed can be repeated."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from sgg_store.errors import TransitionError
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.records import JobRecord
from sgg_store.retries import BUDGETS
from tests.faults.conftest import Servers
from tests.faults.running import Running
from tests.faults.site import LEASE_SECONDS, Site
from worker.testing import eventually

STEPS, CHECKPOINT_EVERY = 30, 10


class Mischief:
    """Does one harmful thing after another to a deployment, as its seed wills."""

    def __init__(self, site: Site, servers: Servers | None, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self._frozen: dict[Running, float] = {}
        self._acts: list[Callable[[], None]] = [self.kill_trainer, self.kill_worker, self.freeze_worker]
        self._acts += [self.stop_worker, self.kill_api, self.cancel]
        if servers is not None:
            self._servers = servers
            self._acts += [self.restart_postgres, self.restart_redis, self.restart_s3]

    def go_on_for(self, seconds: float) -> None:
        """Do harm for so long, and some even if all takes its time; then let everything go on that was stopped."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or self.done.total() < seconds / 3:
            act = self.random.choice(self._acts)
            act()
            self.done[act.__name__] += 1
            time.sleep(self.random.uniform(0.2, 1.5))
            self._thaw(until=time.monotonic())
            self.site.start()
        self._thaw(until=float("inf"))

    def kill_trainer(self) -> None:
        for trainer in self._someone().trainers():
            with suppress(psutil.NoSuchProcess):
                trainer.kill()

    def kill_worker(self) -> None:
        self._someone().kill()

    def stop_worker(self) -> None:
        worker = self._someone()
        if worker not in self._frozen:
            worker.terminate()

    def freeze_worker(self) -> None:
        worker = self._someone()
        if worker is not self.site.api:  # a frozen API is nothing but slow
            worker.freeze()
            self._frozen[worker] = time.monotonic() + self.random.uniform(0.3, 2.5) * LEASE_SECONDS

    def kill_api(self) -> None:
        assert self.site.api is not None
        self.site.api.kill()

    def cancel(self) -> None:
        job = self.random.choice(self.site.bench.jobs())
        with suppress(TransitionError):
            self.site.bench.cancel(job.id)
            self.cancelled.add(job.id)

    def restart_postgres(self) -> None:
        self._servers.postgres.stop()
        self._servers.postgres.start()

    def restart_redis(self) -> None:
        self._servers.redis.kill()
        self._servers.redis.start()

    def restart_s3(self) -> None:
        self._servers.s3.kill()
        self._servers.s3.start()

    def _someone(self) -> Running:
        return self.random.choice(self.site.workers)

    def _thaw(self, until: float) -> None:
        for worker, due in list(self._frozen.items()):
            if due <= until:
                del self._frozen[worker]
                if worker.alive:
                    worker.thaw()


def assert_explained(site: Site, job: JobRecord, cancelled: set[str]) -> None:
    """A job that did not succeed was cancelled by someone, or used up the budget of a cause that is no defect."""
    if job.status is JobStatus.CANCELLED:
        assert job.id in cancelled
    elif job.status is JobStatus.FAILED:
        [cause] = [cause for cause, budget in BUDGETS.items() if budget.code == job.error_code]
        attempts = site.bench.attempts(job.id)
        starts = [attempt.start_step for attempt in attempts if attempt.cause is cause]
        assert starts.count(attempts[-1].start_step) == BUDGETS[cause].attempts


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("seed", "seconds", "count"),
    [
        pytest.param(20, 10, 8, id="short"),
        *(pytest.param(seed, 60, 40, id=f"seed-{seed}", marks=pytest.mark.slow) for seed in (1, 2, 3)),
    ],
)
def test_whatever_happens_every_job_ends_once(
    backend: str, request: pytest.FixtureRequest, site: Site, seed: int, seconds: float, count: int
) -> None:
    servers = request.getfixturevalue("servers") if backend == "servers" else None
    mischief = Mischief(site, servers, seed)
    jobs = [site.submit(STEPS, CHECKPOINT_EVERY) for _ in range(count)]
    mischief.go_on_for(seconds)
    site.start()
    print(f"seed {seed}: {dict(mischief.done)}")
    eventually(lambda: all(site.bench.job(job_id).status in TERMINAL for job_id in jobs), 600)
    ended = [site.bench.job(job_id) for job_id in jobs]
    for job in ended:
        assert_explained(site, job, mischief.cancelled)
    succeeded = [job.id for job in ended if job.status is JobStatus.SUCCEEDED]
    assert len({site.weights(job_id) for job_id in succeeded}) == 1  # whatever happened on the way
    for job_id in succeeded:
        site.assert_whole(job_id, STEPS)
    early = [one for job_id in jobs for one in site.bench.attempts(job_id) if one.state is not AttemptState.SUCCEEDED]
    assert early  # it did harm
