"""Jobs as callers see them, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.errors import (
    CursorNotFoundError,
    DatabaseUnavailableError,
    IdempotencyMismatchError,
    InvalidTextError,
    ModelNotFoundError,
    RecordNotFoundError,
    TransitionError,
)
from sgg_store.events import Events
from sgg_store.files import Files
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.leases import JobResult, Leases
from sgg_store.models import Models
from sgg_store.new_jobs import NewJob, NewJobs
from sgg_store.quota_limits import QuotaLimits
from sgg_store.quotas import Quotas
from sgg_store.testing import add_file, add_job, new_job
from sgg_store.trials import NewTrial, TrialLimits, Trials
from sgg_store.uploads import Uploads
from sgg_store.webhooks import Webhooks


def messages(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [event.message for event in Events(session).since(DEFAULT_PROJECT_ID, job_id, 0)]


def test_a_new_job_is_queued_with_its_first_event(database: Database) -> None:
    with database.begin() as session:
        sources = (add_file(session).id, add_file(session).id)
        made = add_job(session, suffix="mine", seed=7, source_file_ids=sources, user_metadata={"a": "1", "b": "2"})
    with database.read() as session:
        job = Jobs(session).get(DEFAULT_PROJECT_ID, made.id)
        assert (job.status, job.suffix, job.seed, job.step, job.current_attempt) == (JobStatus.QUEUED, "mine", 7, 0, 0)
        assert job.source_file_ids == list(sources)
        assert dict(job.user_metadata) == {"a": "1", "b": "2"}
        assert abs(job.created_at - database.now()) < 60
    assert messages(database, made.id) == ["The job is queued."]


def test_a_job_needs_files_of_its_own_project(database: Database) -> None:
    with database.begin() as session:
        foreign = add_file(session, "proj-other").id
        ensure_project(session)
    for values in ({"training_file_id": foreign}, {"validation_file_id": foreign}, {"source_file_ids": (foreign,)}):
        with pytest.raises(RecordNotFoundError, match=foreign), database.begin() as session:
            add_job(session, **values)
    with pytest.raises(RecordNotFoundError, match="proj-none"), database.begin() as session:
        NewJobs(session).create(
            NewJob(project_id="proj-none", base_model="tiny", spec={}, seed=0, training_file_id=foreign)
        )


def test_a_foreign_job_is_not_found(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session)
        add_job(session, "proj-other")
    with database.read() as session:
        with pytest.raises(RecordNotFoundError):
            Jobs(session).get("proj-other", job.id)
        with pytest.raises(CursorNotFoundError):
            Jobs(session).list_page("proj-other", after=job.id)
        assert Events(session).since("proj-other", job.id, 0) == []
        assert len(Jobs(session).list_page("proj-other").items) == 1
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        Jobs(session).request_cancel("proj-other", job.id)


def test_pages_go_through_all_jobs_once_newest_first_while_new_ones_arrive(database: Database) -> None:
    with database.begin() as session:
        made = [add_job(session).id for _ in range(5)]
    seen: list[str] = []
    after, more = None, True
    while more:
        with database.begin() as session:
            page = Jobs(session).list_page(DEFAULT_PROJECT_ID, after=after, limit=2)
            add_job(session)  # newer than the page: it is not seen, and nothing is seen twice
        seen += [job.id for job in page.items]
        after, more = page.items[-1].id, page.has_more
    assert sorted(seen) == sorted(made)
    with database.read() as session:
        everything = Jobs(session).list_page(DEFAULT_PROJECT_ID, limit=100)
        times = [job.created_at for job in everything.items]
        assert times == sorted(times, reverse=True)
        assert not everything.has_more
        with pytest.raises(CursorNotFoundError, match="ftjob-unknown"):
            Jobs(session).list_page(DEFAULT_PROJECT_ID, after="ftjob-unknown")


def test_a_page_goes_on_after_a_job_that_has_left_the_filter(database: Database) -> None:
    with database.begin() as session:
        made = [add_job(session).id for _ in range(3)]
        first = Jobs(session).list_page(DEFAULT_PROJECT_ID, status=JobStatus.QUEUED, limit=1).items[0].id
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, first)
        rest = Jobs(session).list_page(DEFAULT_PROJECT_ID, status=JobStatus.QUEUED, after=first)
    assert sorted([first, *(job.id for job in rest.items)]) == sorted(made)


@pytest.mark.parametrize("key", ["plain", 'quo"te', "$.a[0]", "per%cent", "ünïcode"])
def test_metadata_filters_take_any_key(database: Database, key: str) -> None:
    with database.begin() as session:
        both = add_job(session, user_metadata={key: "x", "team": "y"}).id
        one = add_job(session, user_metadata={key: "x"}).id
        add_job(session, user_metadata={"other": "x"})
    with database.read() as session:

        def found(metadata: dict[str, str]) -> set[str]:
            return {job.id for job in Jobs(session).list_page(DEFAULT_PROJECT_ID, metadata=metadata).items}

        assert found({key: "x"}) == {both, one}
        assert found({key: "x", "team": "y"}) == {both}
        assert found({key: "z"}) == set()


def test_jobs_without_metadata_are_found_page_by_page(database: Database) -> None:
    with database.begin() as session:
        add_job(session, user_metadata={"team": "x"})
        bare = {add_job(session).id for _ in range(2)}
        add_job(session, user_metadata={"team": "y"})
    with database.read() as session:
        first = Jobs(session).list_page(DEFAULT_PROJECT_ID, without_metadata=True, limit=1)
        rest = Jobs(session).list_page(DEFAULT_PROJECT_ID, without_metadata=True, after=first.items[0].id)
    assert {job.id for job in (*first.items, *rest.items)} == bare and first.has_more and not rest.has_more


def test_one_idempotency_key_makes_one_job(database: Database) -> None:
    with database.begin() as session:
        request = new_job(session, idempotency_key="k", request_hash="h")
        job, created = NewJobs(session).create(request)
        assert created
    with database.begin() as session:
        again, created = NewJobs(session).create(request)
        assert (again.id, created) == (job.id, False)
        add_job(session, "proj-other", idempotency_key="k")  # keys of other projects are their own
    with pytest.raises(IdempotencyMismatchError, match=job.id), database.begin() as session:
        add_job(session, idempotency_key="k", request_hash="another body")


def test_equal_requests_at_the_same_moment_make_one_job(database: Database) -> None:
    with database.begin() as session:
        request = new_job(session, idempotency_key="k", request_hash="h")
    barrier = threading.Barrier(4)
    made: list[tuple[str, bool]] = []

    def submit() -> None:
        barrier.wait()
        with database.begin() as session:
            job, created = NewJobs(session).create(request)
        made.append((job.id, created))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in made}) == 1
    assert sorted(created for _, created in made) == [False, False, False, True]


def test_a_retried_request_without_a_key_finds_its_job_for_a_while(database: Database) -> None:
    with database.begin() as session:
        request = new_job(session, api_key_id="k1", request_hash="h")
        first, _ = NewJobs(session).create(request)
    with database.begin() as session:
        jobs = NewJobs(session)
        found, created = jobs.create(request, repeats_within=60.0)
        assert (found.id, created) == (first.id, False)
        assert jobs.create(request, repeats_within=None)[1]  # not said to be a retry: the user wants two
        assert jobs.create(request, repeats_within=0.0)[1]  # too long ago
        assert jobs.find_recent_duplicate("h", "k2", 60.0) is None


def test_a_retried_request_does_not_find_a_job_that_was_cancelled(database: Database) -> None:
    with database.begin() as session:
        request = new_job(session, api_key_id="k1", request_hash="h")
        first = NewJobs(session).create(request)[0].id
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, first)
        found, created = NewJobs(session).create(request, repeats_within=60.0)
        assert created and found.id != first


def test_a_queued_job_is_cancelled_at_once(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
    with database.begin() as session:
        job = Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
        assert job.status is JobStatus.CANCELLED
        assert job.finished_at is not None
    assert messages(database, job_id)[1:] == ["The job was cancelled. It left no checkpoint."]
    with pytest.raises(TransitionError, match="is cancelled"), database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)


def test_a_running_job_is_asked_to_stop_once(database: Database) -> None:
    with database.begin() as session:
        job_id = add_job(session).id
        assert Leases(session).claim(job_id, "w")
    for _ in range(2):
        with database.begin() as session:
            job = Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
            assert (job.status, job.cancel_requested) == (JobStatus.RUNNING, True)
    assert messages(database, job_id)[2:] == ["Cancellation was requested."]


def test_models_are_listed_until_they_are_deleted(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session)
        claim = Leases(session).claim(job.id, "w")
        assert claim
        result = JobResult(
            fine_tuned_model="ft:tiny:default::1", trained_tokens=5, result_file_ids=("file-1", "file-2")
        )
        Leases(session).succeed(claim.lease, result)
        add_job(session)
    with database.begin() as session:
        jobs = Jobs(session)
        assert [made.id for made in jobs.list_models(DEFAULT_PROJECT_ID)] == [job.id]
        assert jobs.get_by_fine_tuned_model(DEFAULT_PROJECT_ID, "ft:tiny:default::1").trained_tokens == 5
        with pytest.raises(RecordNotFoundError):
            jobs.get_by_fine_tuned_model("proj-other", "ft:tiny:default::1")
        Models(session, DEFAULT_PROJECT_ID).delete("ft:tiny:default::1")
        assert jobs.list_models(DEFAULT_PROJECT_ID) == []
        with pytest.raises(ModelNotFoundError):
            Models(session, DEFAULT_PROJECT_ID).delete("ft:tiny:default::1")
        assert jobs.get(DEFAULT_PROJECT_ID, job.id).result_file_ids == ["file-1", "file-2"]


@pytest.mark.postgres
@pytest.mark.parametrize("suffix", ["\ud800", pytest.param("\0", id="NUL")])
def test_text_that_a_database_cannot_hold_is_named_and_changes_nothing(postgres_url: str, suffix: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(InvalidTextError), database.begin() as session:
        add_job(session, suffix=suffix)
    with database.read() as session:
        assert Files(session).list_page(DEFAULT_PROJECT_ID).items == []
    database.dispose()


@pytest.mark.postgres
def test_requests_that_differ_do_not_wait_for_each_other(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.begin() as session:
        file_id = add_file(session).id
    with database.begin() as first:
        NewJobs(first).create(new_job(first, training_file_id=file_id, request_hash="a"))
        with database.begin() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            NewJobs(second).create(new_job(second, training_file_id=file_id, request_hash="b"))
        with pytest.raises(DatabaseUnavailableError), database.begin() as third:
            third.execute(text("SET LOCAL lock_timeout = '200ms'"))
            NewJobs(third).create(new_job(third, training_file_id=file_id, request_hash="a"))
    database.dispose()


TRIAL = NewTrial(project_id=DEFAULT_PROJECT_ID, base_model="tiny", request={})
OTHER_CALLS: dict[str, Callable[[Session], object]] = {
    "upload": lambda session: Uploads(session).create(DEFAULT_PROJECT_ID, "t.jsonl", "fine-tune", 1, None),
    "trial": lambda session: Trials(session).ask(TRIAL, TrialLimits(total=9, of_project=9, seconds=9)),
    "webhook": lambda session: Webhooks(session).add(DEFAULT_PROJECT_ID, "https://example.org", (), None),
    "file": lambda session: Quotas(session, QuotaLimits(stored_bytes=9)).admit_bytes(DEFAULT_PROJECT_ID, 1),
}


@pytest.mark.postgres
@pytest.mark.parametrize("call", OTHER_CALLS)
def test_other_calls_of_a_project_do_not_wait_for_a_job_being_created(postgres_url: str, call: str) -> None:
    database = Database(postgres_url)
    with database.begin() as session:
        add_file(session)
    with database.begin() as first:
        add_job(first)
        with database.begin() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            OTHER_CALLS[call](second)
    database.dispose()
