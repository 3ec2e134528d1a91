"""An API process finds lost jobs by itself, also where no worker is left."""

from __future__ import annotations

from sqlalchemy import update

from api.settings import ApiSettings
from api.testing import serving
from sgg_store.leases import Leases
from sgg_store.records import AttemptRecord
from worker.testing import eventually


def test_an_api_process_without_workers_gives_lost_jobs_back(api_settings: ApiSettings) -> None:
    settings = api_settings.model_copy(update={"reap_seconds": 0.05})
    with serving(settings) as server:
        job_id = server.job_id()
        with server.database.begin() as session:
            assert Leases(session).claim(job_id, "a worker that dies")
        assert server.job(job_id)["status"] == "running"
        with server.database.begin() as session:
            session.execute(update(AttemptRecord).values(lease_expires_at=0.0))
        eventually(lambda: server.job(job_id)["status"] == "queued")
        assert server.job(job_id)["sgg"]["attempts"] == 1
