"""How long a run will take: its work on the reference machine, corrected by what earlier work took here."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_store.durations import FEW, UNSEEN, expected_duration
from sgg_store.events import Events, NewEvent
from sgg_store.records import JobRecord

RESULTS = {"metrics.csv": b"step\n", "adapter.tar.gz": b"bundle"}


def finished(server: ApiServer, reference_seconds: float | None, took: float) -> str:
    """A job that succeeded after so many seconds, whose trainer foretold its work; gives its base model."""
    job_id = server.job_id()
    worker = server.claim(job_id)
    data = {} if reference_seconds is None else {"reference_seconds": reference_seconds}
    with server.database.begin() as session:
        Events(session).append(worker.lease, [NewEvent("It begins.", data=data)])
    worker.succeed(RESULTS)
    with server.database.begin() as session:
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(started_at=JobRecord.finished_at - took))
    return str(server.job(job_id)["model"])


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_durations_follow_from_what_the_work_of_earlier_jobs_took(
    api_settings: ApiSettings, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with serving(api_settings.model_copy(update={"database_url": url})) as server:
        model = finished(server, None, took=1000)  # by an older version, which foretold nothing
        with server.database.read() as session:
            unseen = expected_duration(session, model, 4.0)
        assert (unseen.early, unseen.likely, unseen.late) == (4 * UNSEEN.early, 4 * UNSEEN.likely, 4 * UNSEEN.late)
        for took in (20, 30, 40):
            finished(server, 10.0, took=took)
        with server.database.read() as session:
            found = expected_duration(session, model, 4.0)
            other = expected_duration(session, "another-model", 4.0)
        assert found.likely == pytest.approx(12, rel=1e-3)  # three times as long as foretold
        assert found.late == pytest.approx(12 * FEW.late, rel=1e-3)
        assert other == unseen
