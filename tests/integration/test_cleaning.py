"""What is kept, what is removed, and that nothing is lost between a row and its object."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import ORMExecuteState

from sgg_store.attempts import Lease
from sgg_store.checkpoints import Checkpoints
from sgg_store.cleaning import Cleaned, Cleaner, begin_chore, delete_objects
from sgg_store.database import Database, upgrade_schema
from sgg_store.errors import (
    FileInUseError,
    FileOfModelError,
    ForeignObjectsError,
    ModelInUseError,
    ObjectStoreUnavailableError,
    RecordNotFoundError,
    TransitionError,
)
from sgg_store.files import Files
from sgg_store.garbage import find_garbage
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, SCOPES, ApiKeys, ensure_project
from sgg_store.leases import JobResult, Leases
from sgg_store.local_objects import LocalObjectStore
from sgg_store.models import Models
from sgg_store.new_jobs import Start
from sgg_store.objects import ObjectStore, StoredObject, checkpoint_prefix, file_key, report_key, result_key
from sgg_store.ownership import OWNER, adopt_objects, require_own_objects
from sgg_store.permissions import CheckpointPermissions
from sgg_store.records import ApiKeyRecord, CheckpointRecord, EventRecord, FileRecord, JobRecord, database_now
from sgg_store.retries import Cause
from sgg_store.settings import StoreSettings
from sgg_store.testing import add_file, add_job, statements

DAY = 86_400.0


def settings(**values: Any) -> StoreSettings:
    return StoreSettings(**values)


def keys(objects: ObjectStore, folder: str = "") -> set[str]:
    return {found.key for found in objects.list(folder)} - {OWNER}


def claim(database: Database, **values: Any) -> Lease:
    with database.begin() as session:
        job = add_job(session, **values)
        claimed = Leases(session).claim(job.id, "worker")
    assert claimed is not None
    return claimed.lease


def save_checkpoint(
    database: Database, objects: ObjectStore, lease: Lease, step: int, loss: float | None = None, *, row: bool = True
) -> str:
    prefix = checkpoint_prefix(lease, f"step-{step:08d}")
    for name in ("state.safetensors", "manifest.json"):
        objects.put(f"{prefix}/{name}", b"x" * 10)
    if row:
        metrics = {"step": float(step)} | ({} if loss is None else {"full_valid_loss": loss})
        with database.begin() as session:
            Checkpoints(session).append(lease, step, prefix, {"state.safetensors": {"bytes": 10}}, metrics)
    return prefix


def succeed(database: Database, objects: ObjectStore, lease: Lease, expires_at: float | None = None) -> str:
    key = result_key(lease, "adapter.tar.gz")
    objects.put(key, b"adapter")
    with database.begin() as session:
        file = add_file(session, object_key=key, purpose="fine-tune-results", expires_at=expires_at)
        Leases(session).succeed(lease, JobResult(fine_tuned_model="ft:x", trained_tokens=1, result_file_ids=(file.id,)))
    return file.id


def end_days_ago(database: Database, job_id: str, days: float) -> None:
    with database.begin() as session:
        ended = update(JobRecord).where(JobRecord.id == job_id).values(finished_at=database_now() - days * DAY)
        session.execute(ended.execution_options(synchronize_session=False))


def steps_of(database: Database, job_id: str) -> list[int]:
    with database.read() as session:
        query = select(CheckpointRecord.step).where(CheckpointRecord.job_id == job_id).order_by(CheckpointRecord.step)
        return list(session.scalars(query))


def scatter(database: Database, objects: ObjectStore) -> tuple[set[str], set[str]]:
    """Objects of every kind; gives the keys that are needed, and those that are garbage."""
    with database.begin() as session:
        file = add_file(session)
    objects.put(file.object_key, b"data")
    objects.put(file_key("file-without-row"), b"lost")
    dead, live, done = claim(database), claim(database), claim(database)
    recorded = save_checkpoint(database, objects, dead, 1)
    unrecorded = save_checkpoint(database, objects, dead, 2, row=False)
    half_published = result_key(dead, "metrics.csv")
    objects.put(half_published, b"")
    with database.begin() as session:
        Leases(session).give_back(dead, Cause.CRASHED)
    uploading = save_checkpoint(database, objects, live, 1, row=False)
    objects.put(result_key(live, "metrics.csv"), b"")
    succeed(database, objects, done)
    objects.put(report_key(done, "report.json"), b"{}")
    objects.put(report_key(dead, "report.json"), b"{}")
    objects.put("health/left-by-a-probe", b"")
    objects.put("jobs/ftjob-unknown/attempts/1-a/checkpoints/step-00000001/x", b"")
    garbage = {
        *(
            file_key("file-without-row"),
            half_published,
            report_key(dead, "report.json"),
            "health/left-by-a-probe",
            *keys(objects, unrecorded),
        ),
        "jobs/ftjob-unknown/attempts/1-a/checkpoints/step-00000001/x",
    }
    needed = {file.object_key, *keys(objects, recorded), *keys(objects, uploading)}
    needed |= {report_key(done, "report.json"), result_key(live, "metrics.csv"), result_key(done, "adapter.tar.gz")}
    assert needed | garbage == keys(objects) and not needed & garbage
    objects.put("of-another-program", b"")
    return needed, garbage


def test_garbage_is_what_no_row_and_no_live_attempt_needs(database: Database, each_store: ObjectStore) -> None:
    _, garbage = scatter(database, each_store)
    assert {found.key for found in find_garbage(database, each_store, grace_seconds=-60)} == garbage
    assert list(find_garbage(database, each_store, grace_seconds=60)) == []


def test_cleaning_removes_old_garbage_only_and_a_dry_run_nothing(database: Database, objects: LocalObjectStore) -> None:
    needed, garbage = scatter(database, objects)
    young = file_key("file-young")
    make_older(objects)
    objects.put(young, b"its row is on its way")
    cleaner = Cleaner(database, objects, settings())
    told = cleaner.run(dry_run=True)
    assert keys(objects) == needed | garbage | {young, "of-another-program"}
    assert cleaner.run() == told
    assert told.garbage_objects == len(garbage) and told.garbage_bytes > 0
    assert keys(objects) == needed | {young, "of-another-program"}
    assert cleaner.run() == Cleaned()


def make_older(objects: LocalObjectStore) -> None:
    for key in keys(objects):
        os.utime(objects.root / key, (time.time() - 2 * DAY,) * 2)


def test_a_database_collects_nothing_that_belongs_to_another_one(
    database: Database, objects: LocalObjectStore, tmp_path: Path
) -> None:
    _, garbage = scatter(database, objects)
    make_older(objects)
    before = keys(objects)
    url = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    upgrade_schema(url)
    new = Database(url)
    for dry_run in (True, False):
        with pytest.raises(ForeignObjectsError, match="older than this database"):
            Cleaner(new, objects, settings()).run(dry_run=dry_run)
    with new.begin() as session:  # what it has stored itself meanwhile makes the others no more its own
        objects.put(add_file(session).object_key, b"x")
    with pytest.raises(ForeignObjectsError, match="older than this database"):
        Cleaner(new, objects, settings()).run()
    assert keys(objects) >= before
    assert Cleaner(database, objects, settings()).run().garbage_objects == len(garbage)
    with pytest.raises(ForeignObjectsError, match="belong to inst-"):
        Cleaner(new, objects, settings()).run()
    new.dispose()


def test_a_restored_database_is_told_to_be_the_right_one(database: Database, objects: LocalObjectStore) -> None:
    _, garbage = scatter(database, objects)
    make_older(objects)
    objects.put(OWNER, b"inst-of-later")  # by the upgrade after the dump that was restored
    with pytest.raises(ForeignObjectsError, match="belong to inst-of-later"):
        Cleaner(database, objects, settings()).run()
    adopt_objects(database, objects)
    assert Cleaner(database, objects, settings()).run().garbage_objects == len(garbage)


def test_an_installation_of_old_that_needs_nothing_any_more_still_owns_its_objects(
    database: Database, objects: LocalObjectStore
) -> None:
    objects.put(file_key("file-without-row"), b"lost")
    make_older(objects)
    with pytest.raises(ForeignObjectsError):  # a database that was made beside it
        require_own_objects(database, objects)
    with database.begin() as session:
        ApiKeys(session, b"secret").create(ensure_project(session).id, SCOPES, name="old")
        session.execute(update(ApiKeyRecord).values(created_at=0.0))
    require_own_objects(database, objects, claim=False)
    assert not objects.exists(OWNER)
    assert Cleaner(database, objects, settings()).run().garbage_objects == 1
    assert objects.exists(OWNER)


def test_a_database_of_old_that_needs_other_objects_than_those_of_a_store_does_not_own_them(
    database: Database, objects: LocalObjectStore
) -> None:
    objects.put(file_key("file-of-another"), b"theirs")
    make_older(objects)
    with database.begin() as session:
        ApiKeys(session, b"secret").create(ensure_project(session).id, SCOPES, name="old")
        session.execute(update(ApiKeyRecord).values(created_at=0.0))
        add_file(session)  # whose object is elsewhere
    with pytest.raises(ForeignObjectsError):
        require_own_objects(database, objects)
    assert not objects.exists(OWNER)


def test_an_empty_store_becomes_its_first_databases(database: Database, each_store: ObjectStore) -> None:
    require_own_objects(database, each_store)
    owner = b"".join(each_store.open(OWNER))
    require_own_objects(database, each_store)
    assert b"".join(each_store.open(OWNER)) == owner


def test_cleaning_stops_when_it_is_told_to(database: Database, objects: LocalObjectStore) -> None:
    scatter(database, objects)
    before = keys(objects)
    make_older(objects)
    answers = iter([True, True, True, False])
    Cleaner(database, objects, settings()).run(lambda: next(answers))
    assert 0 < len(before) - len(keys(objects)) < 4


def test_cleaning_stops_also_among_objects_that_are_needed(database: Database, objects: LocalObjectStore) -> None:
    with database.begin() as session:
        needed = [add_file(session).object_key for _ in range(1001)]
    for key in needed:
        objects.put(key, b"x")
    asked = 0

    def go_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < 4

    Cleaner(database, objects, settings()).run(go_on)
    assert asked == 4


def test_a_job_keeps_its_newest_checkpoints_and_the_best_one(database: Database, objects: LocalObjectStore) -> None:
    lease = claim(database)
    for step, loss in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.4), (5, None), (6, 0.3)):
        save_checkpoint(database, objects, lease, step, loss)
    with database.begin() as session:
        assert Checkpoints(session).prune(lease, None, None) == []
        dropped = Checkpoints(session).prune(lease, 2, None)
    assert sorted(each.step for each in dropped) == [1, 3, 4]
    assert steps_of(database, lease.job_id) == [2, 5, 6]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "most", "kept"),
    [
        (None, 2, 1000, [2, 5, 6]),
        (2, 3, 1000, [2, 4, 5, 6]),
        (None, None, 6, [1, 2, 3, 4, 5, 6]),
        (None, None, 3, [2, 4, 5, 6]),
        (5, 5, 2, [2, 5, 6]),
    ],
)
def test_a_job_keeps_several_of_its_best_checkpoints_and_always_the_newest_one(
    database: Database,
    objects: LocalObjectStore,
    keep_last: int | None,
    keep_best: int | None,
    most: int,
    kept: list[int],
) -> None:
    lease = claim(database)
    for step, loss in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.4), (5, 0.3), (6, None)):
        save_checkpoint(database, objects, lease, step, loss)
    with database.begin() as session:
        Checkpoints(session).prune(lease, keep_last, keep_best, most)
    assert steps_of(database, lease.job_id) == kept


def test_a_damaged_checkpoint_is_none_of_those_to_keep(database: Database, objects: LocalObjectStore) -> None:
    lease = claim(database)
    for step in (1, 2, 3):
        save_checkpoint(database, objects, lease, step)
    with database.begin() as session:
        newest = Checkpoints(session).newest(lease.job_id)
        assert newest is not None
        Checkpoints(session).mark_damaged(lease, newest.id)
        Checkpoints(session).prune(lease, 1, None)
    assert steps_of(database, lease.job_id) == [2]


def test_checkpoints_of_jobs_that_ended_long_ago_go_and_those_of_others_stay(
    database: Database, objects: LocalObjectStore
) -> None:
    old, recent, running = claim(database), claim(database), claim(database)
    prefixes = {lease: save_checkpoint(database, objects, lease, 1) for lease in (old, recent, running)}
    with database.begin() as session:
        Leases(session).fail(old, "x", "It failed.")
        Leases(session).fail(recent, "x", "It failed.")
    end_days_ago(database, old.job_id, 3)
    end_days_ago(database, recent.job_id, 1)
    assert Cleaner(database, objects, settings()).run().checkpoints == 0
    cleaner = Cleaner(database, objects, settings(checkpoint_ttl_seconds=2 * DAY))
    assert cleaner.run(dry_run=True).checkpoints == 1
    assert cleaner.run().checkpoints == 1
    assert [steps_of(database, lease.job_id) for lease in (old, recent, running)] == [[], [1], [1]]
    assert [bool(keys(objects, prefix)) for prefix in prefixes.values()] == [False, True, True]


def test_expired_files_go_unless_a_job_needs_them(database: Database, objects: LocalObjectStore) -> None:
    past = database.now() - 1
    with database.begin() as session:
        unused, used = add_file(session, expires_at=past), add_file(session)
        later, never = add_file(session, expires_at=past + DAY), add_file(session)
        add_job(session, training_file_id=used.id)
        used.expires_at = past
    for file in (unused, used, later, never):
        objects.put(file.object_key, b"")
    cleaner = Cleaner(database, objects, settings())
    assert cleaner.run(dry_run=True).files == cleaner.run().files == 1
    assert keys(objects) == {used.object_key, later.object_key, never.object_key}
    with database.read() as session:
        assert session.get(FileRecord, unused.id) is None


def test_expired_files_go_in_batches_whatever_jobs_use_and_the_jobs_are_asked_once(database: Database) -> None:
    with database.begin() as session:
        used = [add_file(session).id for _ in range(6)]
        training, validation, retention, start, *sources = used
        roles: dict[str, Any] = {"training_file_id": training, "validation_file_id": validation}
        roles |= {"retention_file_id": retention, "source_file_ids": tuple(sources), "start": Start("x", start)}
        job = add_job(session, **roles)
        unused = [add_file(session).id for _ in range(5)]
        session.execute(update(FileRecord).values(expires_at=1.0))
        session.execute(update(FileRecord).where(FileRecord.id.in_(used)).values(expires_at=0.5))
    dropped: list[str] = []
    for left in (2, 2, 1, 0):
        with database.begin() as session, statements() as sent:
            batch = Files(session).drop_expired(2)
        assert len(batch) == left and len(sent) <= 3  # one of them deletes
        dropped += [file.id for file in batch]
    assert sorted(dropped) == sorted(unused)
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job.id)
        assert sorted(file.id for file in Files(session).expired()) == sorted(used)


def test_a_file_that_others_put_into_the_object_directory_keeps_nothing_from_being_collected(
    database: Database, objects: LocalObjectStore
) -> None:
    require_own_objects(database, objects)
    garbage = file_key("file-without-row")
    objects.put(garbage, b"lost")
    others = objects.root / "files" / ".nfs0000001"
    others.write_bytes(b"")
    for path in (others, objects.root / garbage):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    assert Cleaner(database, objects, settings()).run().garbage_objects == 1
    assert others.exists() and not objects.exists(garbage)


def test_a_finished_job_is_deleted_with_everything_of_it(database: Database, objects: LocalObjectStore) -> None:
    lease, other = claim(database), claim(database)
    save_checkpoint(database, objects, lease, 1)
    save_checkpoint(database, objects, other, 1)
    with pytest.raises(TransitionError, match="Cancel it or wait"), database.begin() as session:
        Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)
    result = succeed(database, objects, lease)
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        Jobs(session).delete("proj-other", lease.job_id)
    with database.begin() as session:
        folder = Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)
    delete_objects(objects, [folder])
    assert keys(objects) == keys(objects, f"jobs/{other.job_id}")
    assert keys(objects)
    with database.read() as session:
        assert session.get(FileRecord, result) is None
        for record in (CheckpointRecord, EventRecord):
            count = select(func.count()).select_from(record).where(record.job_id == lease.job_id)
            assert session.execute(count).scalar_one() == 0
        assert Files(session).list_page(DEFAULT_PROJECT_ID).items  # the data files stay


@pytest.mark.parametrize("what", ["checkpoint", "result"])
def test_a_job_that_another_one_starts_from_stays_until_that_has_ended(
    database: Database, objects: LocalObjectStore, what: str
) -> None:
    lease = claim(database)
    save_checkpoint(database, objects, lease, 1)
    result = succeed(database, objects, lease)
    with database.begin() as session:
        checkpoint = Checkpoints(session).newest(lease.job_id)
        assert checkpoint is not None
        start = Start("x", checkpoint_id=checkpoint.id) if what == "checkpoint" else Start("x", file_id=result)
        other = add_job(session, start=start)
    with pytest.raises(TransitionError, match=other.id), database.begin() as session:
        Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, other.id)
        Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)


@pytest.mark.parametrize("why", ["outdated", "pruned", "expired"])
def test_what_a_job_needs_that_is_being_created_stays(database: Database, objects: LocalObjectStore, why: str) -> None:
    lease = claim(database)
    for step in (1, 2):
        save_checkpoint(database, objects, lease, step)
    with database.begin() as session:
        (oldest, _) = Checkpoints(session).list_page(DEFAULT_PROJECT_ID, lease.job_id).items[::-1]
        file = add_file(session, expires_at=database.now() + 0.3 if why == "expired" else None)
        if why == "outdated":
            Leases(session).fail(lease, "x", "It failed.")
    end_days_ago(database, lease.job_id, 3)

    def clean() -> None:
        with database.begin() as session:
            if why == "outdated":
                Checkpoints(session).drop_outdated(2 * DAY, 10)
            elif why == "pruned":
                Checkpoints(session).prune(lease, 1, None)
            else:
                Files(session).drop_expired(10)

    cleaner = threading.Thread(target=clean)
    with database.begin() as session:
        start = None if why == "expired" else Start("x", checkpoint_id=oldest.id)
        job = add_job(session, training_file_id=file.id, start=start)
        while file.expires_at is not None and database.now() <= file.expires_at:
            time.sleep(0.02)
        cleaner.start()
        cleaner.join(0.3)  # by then it has left the rows alone, or waits for this transaction
    cleaner.join()
    with database.begin() as session:
        assert Leases(session).claim(job.id, "worker") is not None


@pytest.mark.postgres
@pytest.mark.parametrize(("why", "questions"), [("outdated", 1), ("pruned", 2), ("expired", 1)])
def test_what_a_job_needs_that_came_while_it_was_chosen_stays(
    postgres_url: str, objects: LocalObjectStore, why: str, questions: int
) -> None:
    database = Database(postgres_url)
    lease, other = claim(database), claim(database)
    for step in (1, 2):
        save_checkpoint(database, objects, lease, step)
    with database.begin() as session:
        file = add_file(session, expires_at=1.0)
        (oldest, _) = Checkpoints(session).list_page(DEFAULT_PROJECT_ID, lease.job_id).items[::-1]
        if why == "outdated":
            Leases(session).fail(lease, "x", "It failed.")
    end_days_ago(database, lease.job_id, 3)
    asked: list[ORMExecuteState] = []

    def need(state: ORMExecuteState) -> None:
        """After so many questions, what was chosen becomes part of a job that is not finished."""
        asked.append(state)
        if len(asked) == questions + 1:
            needs = {"training_file_id": file.id, "start_checkpoint_id": oldest.id}
            with database.begin() as session:
                session.execute(update(JobRecord).where(JobRecord.id == other.job_id).values(needs))

    with database.begin() as session:
        event.listen(session, "do_orm_execute", need)
        if why == "outdated":
            dropped = [each.id for each in Checkpoints(session).drop_outdated(2 * DAY, 10)]
        elif why == "pruned":
            dropped = [each.id for each in Checkpoints(session).prune(lease, 1, None)]
        else:
            dropped = [each.id for each in Files(session).drop_expired(10)]
    assert len(asked) > questions
    assert len(dropped) == (1 if why == "outdated" else 0)
    assert not {oldest.id, file.id} & {*dropped}
    database.dispose()


def test_a_checkpoint_stays_while_jobs_start_from_it_and_names_no_foreign_ones(database: Database) -> None:
    lease = claim(database)
    manifest = {"adapter_model.safetensors": {"bytes": 1, "sha256": "0" * 64}}
    with database.begin() as session:
        checkpoint = Checkpoints(session).append(lease, 1, "somewhere", manifest, {})
        Leases(session).fail(lease, "x", "It failed.")
        ensure_project(session, "proj-friend")
        CheckpointPermissions(session).grant(checkpoint, ["proj-friend"])
        start = Start("x", checkpoint_id=checkpoint.id)
        mine, foreign = (add_job(session, each, start=start) for each in (DEFAULT_PROJECT_ID, "proj-friend"))
        [file] = Checkpoints(session).files_of([checkpoint.id])[checkpoint.id]
        name = session.get_one(JobRecord, lease.job_id).checkpoint_name(1)

    def refusal() -> str:
        with pytest.raises(FileOfModelError, match=name), database.begin() as session:
            Files(session).delete(DEFAULT_PROJECT_ID, file.id)
        with pytest.raises(ModelInUseError) as caught, database.begin() as session:
            Models(session, DEFAULT_PROJECT_ID).delete(name)
        return caught.value.message

    assert mine.id in refusal() and foreign.id not in refusal()
    with database.begin() as session:
        Jobs(session).request_cancel(DEFAULT_PROJECT_ID, mine.id)
    assert "a job of another project" in refusal()
    with pytest.raises(TransitionError, match="a job of another project"), database.begin() as session:
        Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)
    with database.begin() as session:
        Jobs(session).request_cancel("proj-friend", foreign.id)
        assert Models(session, DEFAULT_PROJECT_ID).delete(name).folders == ("somewhere",)
    with pytest.raises(RecordNotFoundError), database.read() as session:
        Files(session).get(DEFAULT_PROJECT_ID, file.id)


def test_a_file_of_a_damaged_checkpoint_is_of_no_model_and_goes_with_it(database: Database) -> None:
    lease = claim(database)
    manifest = {"adapter_model.safetensors": {"bytes": 1, "sha256": "0" * 64}}
    with database.begin() as session:
        checkpoint = Checkpoints(session).append(lease, 1, "somewhere", manifest, {})
        Checkpoints(session).mark_damaged(lease, checkpoint.id)
        [file] = Checkpoints(session).files_of([checkpoint.id])[checkpoint.id]
    with pytest.raises(FileInUseError, match=lease.job_id), database.begin() as session:
        Files(session).delete(DEFAULT_PROJECT_ID, file.id)
    with database.begin() as session:
        Leases(session).fail(lease, "x", "It failed.")
        Files(session).delete(DEFAULT_PROJECT_ID, file.id)
    with database.read() as session:
        assert session.get(CheckpointRecord, checkpoint.id) is None


class SilentStore(LocalObjectStore):
    """A store that stops answering when something is to be deleted."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        raise ObjectStoreUnavailableError("It does not answer.", "Start it.")


def test_what_a_deletion_could_not_remove_is_collected_later(database: Database, objects: LocalObjectStore) -> None:
    lease = claim(database)
    save_checkpoint(database, objects, lease, 1)
    with database.begin() as session:
        Leases(session).fail(lease, "x", "It failed.")
        folder = Jobs(session).delete(DEFAULT_PROJECT_ID, lease.job_id)
    delete_objects(SilentStore(objects.root), [folder])  # a process that dies here leaves the same
    assert len(keys(objects)) == 2
    assert {found.key for found in find_garbage(database, objects, grace_seconds=-60)} == keys(objects)


def test_of_many_processes_one_at_a_time_does_a_chore(database: Database) -> None:
    begun: list[bool] = []

    def ask() -> None:
        begun.append(begin_chore(database, "chore", 60.0))

    for expected in (1, 0):
        begun.clear()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(begun) == expected
    assert begin_chore(database, "chore", 0.0)
