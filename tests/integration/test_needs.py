"""What memory a queued job is expected to need: what its trainer counted before, else the most of the newest jobs."""

from __future__ import annotations

from sgg_core.reporting import MemoryNeed
from sgg_store.database import Database
from sgg_store.events import Events, NewEvent
from sgg_store.leases import JobResult, Leases
from sgg_store.needs import RECENT_JOBS, expected_need
from sgg_store.quota_limits import QuotaLimits
from sgg_store.retries import Cause
from sgg_store.testing import add_job
from sgg_store.turns import Applicant, Turns

LARGE = 6 * 2**30  # more than an integer of 32 bits holds


def take(database: Database) -> Applicant | None:
    """The job whose turn it is; it stays where it is."""
    with database.begin() as session:
        return Turns(session, QuotaLimits()).take(lambda applicant: True)


def queued(database: Database, base_model: str = "tiny", rank: int = 8) -> str:
    with database.begin() as session:
        spec = {"base_model": base_model, "lora": {"rank": rank}}
        return add_job(session, "proj-a", base_model=base_model, spec=spec).id


def begun(
    database: Database, need: MemoryNeed | None, *later: MemoryNeed, base_model: str = "tiny", rank: int = 8
) -> None:
    """A job that has begun and succeeded; without a need it is one of an older version."""
    job_id = queued(database, base_model, rank)
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "w")
        assert claim is not None
        told = [{"memory": None if each is None else each.model_dump()} for each in (need, *later)]
        Events(session).append(claim.lease, [NewEvent("It begins.", data=data) for data in told])
        result = JobResult(fine_tuned_model=claim.lease.token, trained_tokens=1, result_file_ids=())
        Leases(session).succeed(claim.lease, result)


def expected(database: Database) -> MemoryNeed | None:
    applicant = take(database)
    assert applicant is not None
    return applicant.need


def test_jobs_on_a_base_model_that_was_never_trained_on_are_of_unknown_need(database: Database) -> None:
    begun(database, MemoryNeed(shared=1, adapter=1, passes=1), base_model="another")
    begun(database, None)
    queued(database)
    assert expected(database) is None


def test_the_newest_jobs_tell_what_like_ones_need_and_the_rank_what_an_adapter_does(database: Database) -> None:
    begun(database, MemoryNeed(shared=LARGE, adapter=80, passes=1), rank=8)
    begun(database, MemoryNeed(shared=LARGE, adapter=20, passes=LARGE), rank=2)
    queued(database, rank=16)
    assert expected(database) == MemoryNeed(shared=LARGE, adapter=160, passes=LARGE)


def test_what_was_counted_when_a_job_first_began_counts(database: Database) -> None:
    first = MemoryNeed(shared=9, adapter=8, passes=1)
    begun(database, first, MemoryNeed(shared=9, adapter=8, passes=7))
    queued(database)
    assert expected(database) == first


def test_several_replicas_need_as_much_as_all_of_them_at_once(database: Database) -> None:
    begun(database, MemoryNeed(shared=100, adapter=8, passes=3, replicas=2))
    queued(database)
    assert expected(database) == MemoryNeed(shared=100, adapter=8, passes=3)
    with database.begin() as session:
        spec = {"base_model": "tiny", "optimization": {"seeds": 5}}
        job_id = add_job(session, "proj-a", base_model="tiny", spec=spec).id
    with database.read() as session:
        need = expected_need(session, job_id, "tiny", spec)
    assert need == MemoryNeed(shared=100, adapter=8, passes=3, replicas=5) and need.own == 55


def test_jobs_of_long_ago_are_forgotten(database: Database) -> None:
    begun(database, MemoryNeed(shared=9, adapter=9, passes=9))
    for _ in range(RECENT_JOBS):
        begun(database, MemoryNeed(shared=1, adapter=1, passes=1))
    queued(database)
    assert expected(database) == MemoryNeed(shared=1, adapter=1, passes=1)


def test_a_job_that_began_before_is_known_itself(database: Database) -> None:
    begun(database, MemoryNeed(shared=9, adapter=9, passes=9))
    own = MemoryNeed(shared=5, adapter=3, passes=2)
    job_id = queued(database)
    with database.begin() as session:
        claim = Leases(session).claim(job_id, "w")
        assert claim is not None
        Events(session).append(claim.lease, [NewEvent("It begins.", data={"memory": own.model_dump()})])
        Leases(session).give_back(claim.lease, Cause.PREEMPTED, "stopped")
    with database.read() as session:
        assert expected_need(session, job_id, "tiny", {}) == own
