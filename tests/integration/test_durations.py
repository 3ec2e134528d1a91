"""How long a run will take: its work on the reference machine, corrected by what parts of earlier jobs took here."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy import update

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_core.reporting import ReferenceSeconds
from sgg_store.durations import FEW, LEAST_SHARE, UNSEEN, expected_duration
from sgg_store.events import Events, NewEvent
from sgg_store.outlook import Spread
from sgg_store.records import JobRecord

RESULTS = {"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"}


@dataclass(frozen=True)
class Took:
    """Seconds of an attempt, and of them those of its steps, of which `done` of 4 were taken."""

    all: float
    steps: float
    done: int = 4


def finished(server: ApiServer, reference: ReferenceSeconds | None, took: Took, *later: ReferenceSeconds) -> str:
    """A job that succeeded after so many seconds, whose trainer foretold its work; gives its base model."""
    job_id = server.job_id()
    worker = server.claim(job_id)
    foretold = [{} if each is None else {"reference": each.model_dump()} for each in (reference, *later)]
    with server.database.begin() as session:
        Events(session).append(worker.lease, [NewEvent("It begins.", data=data) for data in foretold])
    for step in range(1, took.done + 1):
        worker.step(step, 4, took.steps / took.done)
    worker.succeed(RESULTS)
    with server.database.begin() as session:
        began = JobRecord.finished_at - took.all
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(started_at=began))
    return str(server.job(job_id)["model"])


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_durations_follow_from_what_parts_of_earlier_jobs_took(
    api_settings: ApiSettings, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    asked = ReferenceSeconds(steps=100, passes=10, fixed=5)
    with serving(api_settings.model_copy(update={"database_url": url})) as server:

        def expected(model: str) -> Spread:
            with server.database.read() as session:
                return expected_duration(session, model, asked)

        model = finished(server, None, Took(1000, 900))  # by an older version, which foretold nothing
        assert expected(model) == UNSEEN.times(115)
        # Tokens pass three times as slowly as foretold, the rest takes half as long again.
        for size in (1, 2, 4):
            reference = ReferenceSeconds(steps=4 * size, passes=size, fixed=10)
            finished(server, reference, Took(all=15 * size + 15, steps=12 * size))
        found = expected(model)
        assert found.likely == pytest.approx(3 * 110 + 1.5 * 5, rel=1e-3)
        assert found.late == pytest.approx(found.likely * FEW.late, rel=1e-3)
        assert expected("another-model") == UNSEEN.times(found.likely)  # told by other base models, and less surely


def test_a_job_that_patience_ended_counts_for_the_steps_that_it_took(api_settings: ApiSettings) -> None:
    reference = ReferenceSeconds(steps=40, passes=4, fixed=10)
    with serving(api_settings) as server:
        model = finished(server, reference, Took(all=21, steps=10, done=1))
        with server.database.read() as session:
            found = expected_duration(session, model, reference)
    assert found.likely == pytest.approx(54, rel=1e-3)


def test_what_was_foretold_when_a_job_first_began_counts(api_settings: ApiSettings) -> None:
    reference = ReferenceSeconds(steps=40, passes=4, fixed=10)
    later = ReferenceSeconds(steps=4, passes=40, fixed=1)
    with serving(api_settings) as server:
        model = finished(server, reference, Took(54, 40), later)
        with server.database.read() as session:
            found = expected_duration(session, model, reference)
    assert found.likely == pytest.approx(54, rel=1e-3)


def test_the_rest_of_a_run_is_never_free(api_settings: ApiSettings) -> None:
    reference = ReferenceSeconds(steps=4, passes=4, fixed=10)
    with serving(api_settings) as server:
        model = finished(server, reference, Took(all=10, steps=8))  # at that pace the passes alone had taken 8
        with server.database.read() as session:
            found = expected_duration(session, model, reference)
    assert found.likely == pytest.approx(16 + 10 * LEAST_SHARE, rel=1e-3)
