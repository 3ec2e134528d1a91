"""An API process finds lost jobs by itself, also where no worker is left."""

from __future__ import annotations

from api.settings import ApiSettings
from api.testing import serving
from sgg_store.leases import Leases
from worker.testing import eventually


def test_an_api_process_without_workers_gives_lost_jobs_back(api_settings: ApiSettings) -> None:
    settings = api_settings.model_copy(update={"reap_seconds": 0.05})
    with serving(settings) as server:
        job_id = server.job_id()
        with server.database.begin() as session:
            assert Leases(session, lease_seconds=0.2).claim(job_id, "a worker that dies")
        assert server.job(job_id)["status"] == "running"
        eventually(lambda: server.job(job_id)["status"] == "queued", 10)
        assert server.job(job_id)["sgg"]["attempts"] == 1
