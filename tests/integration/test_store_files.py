"""Rows of files, on both databases."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy.exc import InvalidRequestError

from sgg_store.database import Database
from sgg_store.errors import CursorNotFoundError, FileInUseError, RecordNotFoundError
from sgg_store.files import Files
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.testing import add_file, add_job


def test_a_file_comes_back_as_it_was_added(database: Database) -> None:
    facts = {"kind": "classification", "examples": 3, "labels": ["ä", "b"]}
    with database.begin() as session:
        made = add_file(session, filename="träin '1'.jsonl", bytes=2**40, facts=facts)
    with database.read() as session:
        file = Files(session).get(DEFAULT_PROJECT_ID, made.id)
        assert (file.filename, file.bytes, file.facts, file.status) == ("träin '1'.jsonl", 2**40, facts, "processed")
        with pytest.raises(RecordNotFoundError):
            Files(session).get("proj-other", made.id)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_the_order_and_the_purpose(database: Database, order: str) -> None:
    with database.begin() as session:
        made = [add_file(session, purpose="fine-tune") for _ in range(3)]
        results = add_file(session, purpose="fine-tune-results")
    expected = [file.id for file in sorted(made, key=lambda file: (file.created_at, file.id))]
    if order == "desc":
        expected.reverse()
    with database.read() as session:
        files = Files(session)
        first = files.list_page(DEFAULT_PROJECT_ID, limit=2, order=order, purpose="fine-tune")
        rest = files.list_page(DEFAULT_PROJECT_ID, after=first.items[-1].id, order=order, purpose="fine-tune")
        assert [file.id for file in first.items + rest.items] == expected
        assert (first.has_more, rest.has_more) == (True, False)
        assert results.id in {file.id for file in files.list_page(DEFAULT_PROJECT_ID).items}
        with pytest.raises(CursorNotFoundError):
            files.list_page(DEFAULT_PROJECT_ID, after=results.id, purpose="fine-tune")


def test_a_page_is_read_without_what_is_known_of_its_files(database: Database) -> None:
    facts = {"kind": "classification", "labels": ["ä", "b"]}
    with database.begin() as session:
        known, unknown = add_file(session, facts=facts).id, add_file(session).id
    with database.read() as session:
        for file in Files(session).list_page(DEFAULT_PROJECT_ID).items:
            assert file.filename
            with pytest.raises(InvalidRequestError):
                _ = file.facts
        found = Files(session).facts_of([known, unknown, "file-gone"])
    assert found == {known: facts, unknown: None}


@pytest.mark.parametrize("role", ["training", "validation", "source"])
@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_file_that_a_job_needs_cannot_be_deleted_until_the_job_ended(
    database: Database, role: str, state: str
) -> None:
    with database.begin() as session:
        needed, other = add_file(session).id, add_file(session).id
        values = {
            "training": {"training_file_id": needed},
            "validation": {"validation_file_id": needed},
            "source": {"source_file_ids": (other, needed)},
        }[role]
        job = add_job(session, **values)
    if state == "running":
        with database.begin() as session:
            claim = Leases(session).claim(job.id, "w")
            assert claim
    with pytest.raises(FileInUseError, match=job.id), database.begin() as session:
        Files(session).delete(DEFAULT_PROJECT_ID, needed)
    with database.begin() as session:
        if state == "running":
            Leases(session).fail(claim.lease, "training_diverged", "The loss became NaN. Lower the learning rate.")
        else:
            Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job.id)
    with database.begin() as session:
        assert Files(session).delete(DEFAULT_PROJECT_ID, needed).object_key == f"files/{needed}"
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        Files(session).delete(DEFAULT_PROJECT_ID, needed)


def test_a_file_cannot_be_deleted_while_a_job_that_needs_it_is_being_created(database: Database) -> None:
    with database.begin() as session:
        file_id = add_file(session).id
    errors: list[type[Exception]] = []

    def delete() -> None:
        try:
            with database.begin() as session:
                Files(session).delete(DEFAULT_PROJECT_ID, file_id)
        except FileInUseError as error:
            errors.append(type(error))

    deleter = threading.Thread(target=delete)
    with database.begin() as session:
        add_job(session, training_file_id=file_id)
        deleter.start()
        time.sleep(0.2)  # the deletion is waiting for this transaction
    deleter.join()
    assert errors == [FileInUseError]


def test_a_foreign_file_cannot_be_deleted(database: Database) -> None:
    with database.begin() as session:
        file_id = add_file(session).id
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        Files(session).delete("proj-other", file_id)


def test_a_claim_without_its_file_fails_the_job_and_names_the_file(database: Database) -> None:
    with database.begin() as session:
        job = add_job(session)
        session.delete(Files(session).get(DEFAULT_PROJECT_ID, job.training_file_id))  # by an administrator's hand
    with database.begin() as session:
        assert Leases(session).claim(job.id, "w") is None
    with database.read() as session:
        failed = Jobs(session).get(DEFAULT_PROJECT_ID, job.id)
        assert (failed.status, failed.error_code) == ("failed", "file_not_found")
        assert job.training_file_id in (failed.error_message or "")
    assert failed.current_attempt == 1
