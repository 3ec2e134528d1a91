"""Events, metrics and checkpoints of a running job, on both databases."""

from __future__ import annotations

import pytest

from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store.attempts import Lease, guard
from sgg_store.checkpoints import ADAPTER_FILES, Checkpoints
from sgg_store.database import Database
from sgg_store.errors import CursorNotFoundError
from sgg_store.events import Events, NewEvent
from sgg_store.job_views import JobViews
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import Leases
from sgg_store.metrics import Metrics
from sgg_store.retries import Cause
from sgg_store.testing import add_job


def take(database: Database, job_id: str) -> Lease:
    with database.begin() as session:
        claimed = Leases(session).claim(job_id, "w")
    assert claimed is not None
    return claimed.lease


@pytest.fixture
def lease(database: Database) -> Lease:
    with database.begin() as session:
        job_id = add_job(session).id
    return take(database, job_id)


def step(number: int, loss: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=number,
        total_steps=20,
        epoch=0.1,
        train_loss=loss,
        train_accuracy=0.5,
        learning_rate=5e-4,
        gradient_norm=0.1 + 0.2,
        seconds=0.25,
        tokens=100,
    )


def evaluation(number: int) -> EvaluationMetrics:
    return EvaluationMetrics(step=number, valid_loss=0.5, valid_accuracy=0.75, valid_macro_f1=0.7, examples=4)


def test_events_are_read_newest_first_and_followed_oldest_first(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        Events(session).append(lease, [NewEvent(f"event {n}", data={"n": {"deep": [n, 0.5]}}) for n in range(5)])
    with database.read() as session:
        events = Events(session)
        pages, after = [], None
        while not pages or pages[-1].has_more:
            pages.append(events.list_page(DEFAULT_PROJECT_ID, lease.job_id, after=after, limit=3))
            after = pages[-1].items[-1].id
        assert [event.seq for page in pages for event in page.items] == [7, 6, 5, 4, 3, 2, 1]
        followed = events.since(DEFAULT_PROJECT_ID, lease.job_id, 5)
        assert [event.seq for event in followed] == [6, 7]
        assert followed[-1].data == {"n": {"deep": [4, 0.5]}}
        assert [event.seq for event in events.since(DEFAULT_PROJECT_ID, lease.job_id, 0, limit=2)] == [1, 2]


@pytest.mark.parametrize("cursor", ["ftevent-unknown", "", "{job}00000099", "{job}x", "{job}"])
def test_an_unknown_event_is_no_place_to_go_on(database: Database, lease: Lease, cursor: str) -> None:
    after = cursor.format(job=f"ftevent-{lease.job_id.removeprefix('ftjob-')}")
    with pytest.raises(CursorNotFoundError), database.read() as session:
        Events(session).list_page(DEFAULT_PROJECT_ID, lease.job_id, after=after)


def test_metrics_come_back_exactly_and_move_the_job_s_progress(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        Metrics(session).append(lease, [step(1), step(2), evaluation(2)])
        Metrics(session).append(lease, [step(3)])
        Metrics(session).append(lease, [])
    with database.read() as session:
        metrics = Metrics(session)
        assert metrics.since(lease.job_id) == [step(1), step(2), evaluation(2), step(3)]
        assert metrics.since(lease.job_id, 2) == [step(3)]
        view = JobViews(session).get(lease.project_id, lease.job_id)
        assert (view.step, view.evaluation) == (step(3), evaluation(2))
        job = Jobs(session).get(DEFAULT_PROJECT_ID, lease.job_id)
        assert (job.step, job.total_steps) == (3, 20)


def test_a_resumed_attempt_replaces_the_figures_of_the_steps_it_repeats(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        Metrics(session).append(lease, [step(1), step(2, loss=9.0), evaluation(2), step(3, loss=9.0)])
        Leases(session).give_back(lease, Cause.LOST)
    again = take(database, lease.job_id)
    with database.begin() as session:
        Metrics(session).append(again, [step(2)])
    with database.read() as session:
        assert Metrics(session).since(lease.job_id) == [step(1), step(2), evaluation(2), step(3, loss=9.0)]


def test_the_newest_checkpoint_is_where_the_next_attempt_begins(database: Database, lease: Lease) -> None:
    manifest = {"adapter_model.safetensors": {"bytes": 3, "sha256": "ab"}}
    with database.begin() as session:
        for at in (4, 8):
            Checkpoints(session).append(lease, at, f"prefix-{at}", manifest, {"step": at, "train_loss": 0.5})
        Leases(session).give_back(lease, Cause.PREEMPTED)
    with database.begin() as session:
        claimed = Leases(session).claim(lease.job_id, "w")
    assert claimed is not None
    assert claimed.checkpoint is not None
    assert (claimed.checkpoint.step, claimed.checkpoint.object_prefix) == (8, "prefix-8")
    assert claimed.checkpoint.manifest == manifest
    with database.read() as session:
        assert Events(session).list_page(DEFAULT_PROJECT_ID, lease.job_id).items[0].data == {"resumed_from_step": 8}


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_listed_no_more(
    database: Database, lease: Lease
) -> None:
    with database.begin() as session:
        checkpoints = Checkpoints(session)
        made = {at: checkpoints.append(lease, at, f"prefix-{at}", {}, {}) for at in (4, 8)}
        older = checkpoints.mark_damaged(lease, made[8].id)
        assert older is not None
        assert older.step == 4
        assert guard(session, lease).start_step == 4
    with database.begin() as session:
        checkpoints = Checkpoints(session)
        listed = checkpoints.list_page(DEFAULT_PROJECT_ID, lease.job_id).items
        assert [checkpoint.step for checkpoint in listed] == [4]
        for _ in range(2):  # as where the answer to the first commit is lost
            assert checkpoints.mark_damaged(lease, made[4].id, "it is of old") is None
        assert guard(session, lease).start_step == 0
        checkpoints.append(lease, 8, "prefix-8-again", {}, {})
        newest = checkpoints.newest(lease.job_id)
        assert newest is not None
        assert newest.object_prefix == "prefix-8-again"
    with database.read() as session:
        told = Events(session).list_page(DEFAULT_PROJECT_ID, lease.job_id, limit=2).items
    assert [(event.level, event.message, event.data) for event in reversed(told)] == [
        (
            "warn",
            "The checkpoint of step 8 cannot be used: it is damaged. Training starts from step 4.",
            {"resumed_from_step": 4},
        ),
        (
            "warn",
            "The checkpoint of step 4 cannot be used: it is of old. Training starts from the beginning.",
            {"resumed_from_step": 0},
        ),
    ]


def test_a_worker_calls_no_checkpoint_of_another_job_damaged(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        other = add_job(session).id
    theirs = take(database, other)
    with database.begin() as session:
        checkpoint_id = Checkpoints(session).append(theirs, 4, "prefix", {}, {}).id
        assert Checkpoints(session).mark_damaged(lease, checkpoint_id) is None
        assert len(Events(session).since(DEFAULT_PROJECT_ID, lease.job_id, 0)) == 2
    with database.read() as session:
        newest = Checkpoints(session).newest(other)
    assert newest is not None and newest.id == checkpoint_id


def test_a_checkpoint_saved_again_keeps_its_id_and_those_of_its_downloads(database: Database, lease: Lease) -> None:
    def save(prefix: str, size: int) -> tuple[str, list[tuple[str, str, int]]]:
        manifest = {name: {"bytes": size, "sha256": f"{size}"} for name in (*ADAPTER_FILES, "state.json")}
        with database.begin() as session:
            checkpoint_id = Checkpoints(session).append(lease, 8, prefix, manifest, {"step": 8}).id
        with database.read() as session:
            files = Checkpoints(session).files_of([checkpoint_id])[checkpoint_id]
            return checkpoint_id, [(file.id, file.object_key, file.bytes) for file in files]

    first, before = save("prefix-8", 2)
    second, after = save("prefix-8-compared", 3)
    assert first == second
    assert [file_id for file_id, _, _ in before] == [file_id for file_id, _, _ in after]
    assert sorted((key, size) for _, key, size in after) == sorted(
        (f"prefix-8-compared/{name}", 3) for name in ADAPTER_FILES
    )


def test_checkpoints_are_paged_newest_first_within_their_project(database: Database, lease: Lease) -> None:
    with database.begin() as session:
        for at in range(1, 6):
            Checkpoints(session).append(lease, at, f"prefix-{at}", {}, {})
    with database.read() as session:
        checkpoints = Checkpoints(session)
        first = checkpoints.list_page(DEFAULT_PROJECT_ID, lease.job_id, limit=3)
        rest = checkpoints.list_page(DEFAULT_PROJECT_ID, lease.job_id, limit=3, after=first.items[-1].id)
        assert [item.step for item in first.items + rest.items] == [5, 4, 3, 2, 1]
        assert (first.has_more, rest.has_more) == (True, False)
        assert checkpoints.list_page("proj-other", lease.job_id).items == []
        with pytest.raises(CursorNotFoundError):
            checkpoints.list_page(DEFAULT_PROJECT_ID, lease.job_id, after="ftckpt_unknown")
