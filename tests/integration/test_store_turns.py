"""Which job a worker takes: order, fair shares, quotas, and nobody waits for ever; on both databases."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from sgg_store.attempts import Lease
from sgg_store.database import Database
from sgg_store.doorbells import Doorbells
from sgg_store.errors import DatabaseUnavailableError
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.leases import JobResult, Leases
from sgg_store.projects import Projects
from sgg_store.quota_limits import QuotaLimits
from sgg_store.records import AttemptRecord, JobRecord, ProjectRecord, database_now
from sgg_store.retries import Cause
from sgg_store.testing import add_job
from sgg_store.turns import Turns

NONE = QuotaLimits()
PROJECTS = ("proj-a", "proj-b", "proj-c")


def submit(database: Database, project: str, priority: int = 0) -> str:
    with database.begin() as session:
        return add_job(session, project, priority=priority).id


def take(database: Database, limits: QuotaLimits = NONE) -> Lease | None:
    with database.begin() as session:
        chosen = Turns(session, limits).take(lambda applicant: True)
        claimed = None if chosen is None else Leases(session).claim(chosen.job_id, "w")
        assert (claimed is None) == (chosen is None)
        return claimed.lease if claimed else None


def finish(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        Leases(session).succeed(lease, JobResult(fine_tuned_model=lease.token, trained_tokens=1, result_file_ids=()))


def taken(database: Database, times: int, limits: QuotaLimits = NONE) -> list[str]:
    """Projects of the jobs that one worker runs, one after the other."""
    order = []
    for _ in range(times):
        lease = take(database, limits)
        assert lease is not None
        order.append(lease.project_id[-1])
        finish(database, lease)
    return order


def test_a_project_with_many_jobs_takes_turns_with_one_that_has_few(database: Database) -> None:
    for _ in range(6):
        submit(database, "proj-a")
    for _ in range(2):
        submit(database, "proj-b")
    assert taken(database, 8) == list("abababaa"[:4]) + list("aaaa")


def test_within_a_project_jobs_run_in_the_order_of_their_submission(database: Database) -> None:
    job_ids = [submit(database, "proj-a") for _ in range(4)]
    order = [lease.job_id for _ in job_ids if (lease := take(database))]
    assert order == job_ids


def test_a_higher_priority_goes_first_also_within_a_project(database: Database) -> None:
    low, high, higher = (
        submit(database, project, priority) for project, priority in (("proj-a", 0), ("proj-a", 1), ("proj-b", 2))
    )
    assert [lease.job_id for _ in range(3) if (lease := take(database))] == [higher, high, low]


def test_workers_are_shared_by_how_many_jobs_run(database: Database) -> None:
    for _ in range(4):
        submit(database, "proj-a")
    leases = [take(database) for _ in range(2)]
    submit(database, "proj-b")
    submit(database, "proj-b")
    assert all(lease and lease.project_id == "proj-a" for lease in leases)
    following = [lease.project_id for _ in range(3) if (lease := take(database))]
    assert following == ["proj-b", "proj-b", "proj-a"]


def test_a_project_at_its_quota_leaves_its_turn_to_another(database: Database) -> None:
    limits = QuotaLimits(running_jobs=1)
    first, second = submit(database, "proj-a"), submit(database, "proj-a")
    other = submit(database, "proj-b")
    lease = take(database, limits)
    assert lease and lease.job_id == first
    turned = take(database, limits)
    assert turned and turned.job_id == other
    assert take(database, limits) is None
    with database.read() as session:
        may_run = Turns(session, limits).may_run()
        assert session.scalars(select(JobRecord.id).where(JobRecord.status == JobStatus.QUEUED, may_run)).all() == []
    finish(database, lease)
    late = take(database, limits)
    assert late and late.job_id == second


def test_a_day_whose_training_is_used_up_leaves_jobs_waiting(database: Database) -> None:
    submit(database, "proj-a")
    with database.begin() as session:
        Projects(session).change("proj-a", quotas={"trainer_seconds_per_day": 0})
    assert take(database) is None
    with database.begin() as session:
        assert Doorbells(session).due_for_ring(only=Turns(session, NONE).may_run()) == []
        Projects(session).change("proj-a", quotas={"trainer_seconds_per_day": None})
    assert take(database) is not None


def told_to_wait(database: Database) -> str:
    """A job whose attempt met a full disk."""
    job_id = submit(database, "proj-a")
    lease = take(database)
    assert lease is not None
    with database.begin() as session:
        Leases(session).give_back(lease, Cause.STORAGE, "full")  # to be tried again in 10 s
    return job_id


@pytest.mark.parametrize("rung", [True, False])
def test_a_job_that_is_told_to_wait_has_no_turn_before_its_doorbell_is_due(database: Database, rung: bool) -> None:
    job_id = told_to_wait(database)
    with database.begin() as session:  # as a dispatcher does that found it due before its attempt
        Doorbells(session).mark_rung(job_id)
    assert take(database) is None
    with database.begin() as session:
        session.execute(update(JobRecord).values(next_ring_at=database_now() - 1))
        if rung:
            Doorbells(session).mark_rung(job_id)
    again = take(database)
    assert again and again.job_id == job_id


def test_a_job_that_is_resumed_does_not_wait(database: Database) -> None:
    job_id = told_to_wait(database)
    with database.begin() as session:
        Jobs(session).request_pause("proj-a", job_id)
        assert Jobs(session).resume("proj-a", job_id).status is JobStatus.QUEUED
    again = take(database)
    assert again and again.job_id == job_id


def test_of_workers_at_the_same_moment_each_takes_another_job_within_the_quotas(database: Database) -> None:
    limits = QuotaLimits(running_jobs=2)
    for _ in range(5):
        for project in PROJECTS[:2]:
            submit(database, project)
    barrier = threading.Barrier(8)
    leases: list[Lease | None] = []

    def work() -> None:
        barrier.wait()
        leases.append(take(database, limits))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [lease for lease in leases if lease is not None]
    assert len({lease.job_id for lease in got}) == len(got) == 4
    assert sorted(lease.project_id for lease in got) == ["proj-a", "proj-a", "proj-b", "proj-b"]


@pytest.mark.postgres
def test_a_worker_that_stops_while_it_chooses_does_not_keep_others_from_choosing(postgres_url: str) -> None:
    database = Database(postgres_url)
    try:
        submit(database, "proj-a")
        with pytest.raises(DatabaseUnavailableError), database.begin() as stopped:
            Turns(stopped, NONE).take(lambda applicant: True)
            with pytest.raises(DatabaseUnavailableError), database.begin() as other:  # it holds the others up
                other.execute(text("SET LOCAL lock_timeout = '200ms'"))
                other.execute(select(ProjectRecord).with_for_update())
            took: Lease | None = None
            for _ in range(3):  # the first tries may give up
                with suppress(DatabaseUnavailableError):
                    took = took or take(database)
            assert took is not None
            stopped.execute(select(1))
    finally:
        database.dispose()


@dataclass
class Naive:
    """The rule, written down a second time over plain lists."""

    limit: int

    def __post_init__(self) -> None:
        self.waiting: list[tuple[str, str, int]] = []  # job, project, priority; in the order of submission
        self.running: list[tuple[str, str]] = []
        self.served: list[str] = []

    def choose(self) -> str | None:
        def busy(project: str) -> int:
            return sum(other == project for _, other in self.running)

        def last(project: str) -> int:
            return max((turn for turn, other in enumerate(self.served) if other == project), default=-1)

        free = [job for job in self.waiting if busy(job[1]) < self.limit]
        chosen = min(free, key=lambda job: (-job[2], busy(job[1]), last(job[1]), self.waiting.index(job)), default=None)
        if chosen is None:
            return None
        self.waiting.remove(chosen)
        self.running.append(chosen[:2])
        self.served.append(chosen[1])
        return chosen[0]


Step = tuple[str, str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(PROJECTS), st.integers(-1, 1)),
        st.tuples(st.just("take"), st.just(""), st.integers(0, 20)),
        st.tuples(st.just("finish"), st.just(""), st.integers(0, 20)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(script=steps, limit=st.integers(1, 3))
def test_the_choice_is_that_of_the_rule_in_any_order_of_events(
    database: Database, script: list[Step], limit: int
) -> None:
    with database.begin() as session:
        for table in (AttemptRecord, JobRecord):
            session.execute(text(f"DELETE FROM {table.__tablename__}"))
        session.execute(update(ProjectRecord).values(last_claimed_at=None))
    naive, leases = Naive(limit), dict[str, Lease]()
    for verb, project, number in script:
        if verb == "submit":
            naive.waiting.append((submit(database, project, number), project, number))
        elif verb == "take":
            lease = take(database, QuotaLimits(running_jobs=limit))
            assert (lease.job_id if lease else None) == naive.choose()
            if lease:
                leases[lease.job_id] = lease
        elif naive.running:
            job_id, _ = naive.running.pop(number % len(naive.running))
            finish(database, leases.pop(job_id))


def test_a_waiting_project_is_served_after_at_most_one_job_of_each_other(database: Database) -> None:
    for project in PROJECTS[:2]:
        for _ in range(3):
            submit(database, project)
    waited = 0
    submit(database, "proj-c")
    for _ in range(6):
        lease = take(database)
        assert lease is not None
        if lease.project_id == "proj-c":
            break
        waited += 1
        submit(database, lease.project_id)  # the others never run dry
        finish(database, lease)
    assert waited <= 2
