"""The queue of trials on both databases: bounded, in order, each taken once, gone when its time is over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from sgg_core.trials import WrittenText
from sgg_store.cleaning import Cleaner
from sgg_store.database import Database
from sgg_store.errors import TrialQueueFullError
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.local_objects import LocalObjectStore
from sgg_store.records import TrialRecord, TrialState, database_now
from sgg_store.settings import StoreSettings
from sgg_store.trials import GRACE_SECONDS, SILENT_SECONDS, NewTrial, Progress, TrialLimits, Trials

LIMITS = TrialLimits(total=4, of_project=3, seconds=60)
HALF = WrittenText(text="ha", prompt_tokens=1, completion_tokens=1)


def ask(database: Database, project_id: str = DEFAULT_PROJECT_ID, base_model: str = "tiny") -> str:
    new = NewTrial(project_id=project_id, base_model=base_model, request={})
    with database.begin() as session:
        ensure_project(session, project_id)
        return Trials(session).ask(new, LIMITS)


def take(database: Database, trial_id: str) -> TrialRecord | None:
    with database.begin() as session:
        return Trials(session).claim(trial_id)


def tell(database: Database, trial: TrialRecord | None, state: TrialState, said: WrittenText | None = None) -> bool:
    assert trial is not None
    with database.begin() as session:
        return Trials(session).tell(trial, state, said)


def progress(database: Database, trial_id: str) -> Progress | None:
    with database.read() as session:
        return Trials(session).progress([trial_id]).get(trial_id)


def change(database: Database, trial_id: str, **values: Any) -> None:
    with database.begin() as session:
        session.execute(update(TrialRecord).where(TrialRecord.id == trial_id).values(**values))


def waiting(database: Database, *loaded: str, patience: float = 0.0) -> str | None:
    with database.read() as session:
        return Trials(session).next_waiting(loaded, patience)


def test_the_oldest_is_taken_first_and_by_one_worker_only(database: Database) -> None:
    first, second = ask(database), ask(database)
    change(database, first, created_at=database_now() - 1)
    assert waiting(database, "tiny") == first
    with ThreadPoolExecutor(4) as pool:
        taken = [each for each in pool.map(lambda _: take(database, first), range(4)) if each]
    assert len(taken) == 1
    assert waiting(database, "tiny") == second


def test_projects_take_turns_however_many_trials_one_of_them_has(database: Database) -> None:
    def taken() -> str:
        trial_id = waiting(database, "tiny")
        assert trial_id is not None
        trial = take(database, trial_id)
        assert tell(database, trial, TrialState.ANSWERED, HALF)
        return trial_id

    busy = [ask(database) for _ in range(3)]
    ages = [(busy[0], 9), (busy[1], 8), (busy[2], 7), (other := ask(database, "proj-other"), 6)]
    for trial_id, age in ages:
        change(database, trial_id, created_at=database_now() - age, heard_at=database_now() - age)
    assert [taken(), taken()] == [busy[0], other]
    later = ask(database)  # the project that has most asks again and again
    again = ask(database, "proj-other")
    time.sleep(0.01)  # SQLite's clock has milliseconds
    assert [taken(), taken()] == [busy[1], again]
    assert [taken(), taken()] == [busy[2], later]


def test_workers_that_take_trials_of_one_project_at_once_do_not_wait_for_each_other(database: Database) -> None:
    for _ in range(20):
        ids = [ask(database) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            taken = list(pool.map(lambda trial_id: take(database, trial_id), ids))
        assert all(taken)
        for trial_id in ids:
            with database.begin() as session:
                Trials(session).forget(trial_id)


def test_a_trial_is_left_for_a_while_to_workers_that_have_its_base_model(database: Database) -> None:
    trial_id = ask(database)
    assert waiting(database, "other", patience=60) is None
    assert waiting(database, "tiny", patience=60) == trial_id
    change(database, trial_id, created_at=database_now() - 61)
    assert waiting(database, "other", patience=60) == trial_id


def test_no_more_trials_wait_than_may_of_one_project_and_of_all(database: Database) -> None:
    mine = [ask(database) for _ in range(3)]
    with pytest.raises(TrialQueueFullError, match=r"this project.*production"):
        ask(database)
    ask(database, "proj-other")
    with pytest.raises(TrialQueueFullError, match="all projects"):
        ask(database, "proj-third")
    with database.begin() as session:
        Trials(session).forget(mine[0])
    ask(database, "proj-third")


def test_an_answered_trial_has_given_its_place_away(database: Database) -> None:
    ids = [ask(database) for _ in range(3)]
    assert tell(database, take(database, ids[0]), TrialState.ANSWERED, HALF)
    ask(database)


def test_the_answer_grows_and_stays_until_it_is_replaced(database: Database) -> None:
    trial = take(database, ask(database))
    assert trial is not None
    assert tell(database, trial, TrialState.RUNNING, HALF)
    assert tell(database, trial, TrialState.RUNNING)
    found = progress(database, trial.id)
    assert found is not None and found.answer == HALF.model_dump() and found.lost is None
    whole = HALF.model_copy(update={"text": "half", "finish_reason": "stop"})
    assert tell(database, trial, TrialState.ANSWERED, whole)
    assert progress(database, trial.id) == Progress(TrialState.ANSWERED, whole.model_dump(), None)
    assert not tell(database, trial, TrialState.RUNNING, HALF)


def test_a_worker_hears_that_nobody_waits_any_more(database: Database) -> None:
    gone, late = take(database, ask(database)), take(database, ask(database))
    assert gone is not None and late is not None
    with database.begin() as session:
        Trials(session).forget(gone.id)
    change(database, late.id, expires_at=database_now() - GRACE_SECONDS - 1)
    assert not tell(database, gone, TrialState.RUNNING)
    assert not tell(database, late, TrialState.ANSWERED, HALF)
    assert progress(database, gone.id) is None


def test_a_trial_whose_worker_fell_silent_is_lost_and_so_is_one_whose_time_is_over(database: Database) -> None:
    trial = take(database, ask(database))
    assert trial is not None
    change(database, trial.id, heard_at=database_now() - SILENT_SECONDS - 1)
    found = progress(database, trial.id)
    assert found is not None and found.lost == "silent"
    old = ask(database)
    change(database, old, expires_at=database_now() - 1)
    found = progress(database, old)
    assert found is not None and found.lost == "expired"
    assert waiting(database, "tiny") is None and take(database, trial.id) is None


def test_a_worker_may_answer_for_a_moment_after_the_time_is_over_and_not_later(database: Database) -> None:
    answered, late = take(database, ask(database)), take(database, ask(database))
    assert answered is not None and late is not None
    for trial in (answered, late):
        change(database, trial.id, expires_at=database_now() - GRACE_SECONDS / 2)
        found = progress(database, trial.id)
        assert found is not None and found.lost is None
    assert tell(database, answered, TrialState.ANSWERED, HALF)
    change(database, late.id, expires_at=database_now() - GRACE_SECONDS - 1)
    found = progress(database, late.id)
    assert found is not None and found.lost == "expired"


def test_what_nobody_forgot_leaves_when_the_next_one_comes_or_the_cleaner(database: Database, tmp_path: Path) -> None:
    def left() -> int:
        with database.read() as session:
            return session.execute(select(func.count()).select_from(TrialRecord)).scalar_one()

    for _ in range(3):
        change(database, ask(database), expires_at=database_now() - SILENT_SECONDS - 1)
    recent = ask(database)
    assert left() == 1
    cleaner = Cleaner(database, LocalObjectStore(tmp_path / "objects"), StoreSettings(data_dir=tmp_path))
    cleaner.run()
    assert left() == 1
    change(database, recent, expires_at=database_now() - SILENT_SECONDS - 1)
    cleaner.run()
    assert left() == 0
