"""Whoever watches a job misses nothing, whatever happens to the server."""

from __future__ import annotations

import httpx

from sgg_store.job_state import JobStatus
from tests.faults.site import Site

STEPS, CHECKPOINT_EVERY = 120, 40


def follow(site: Site, job_id: str, heard: list[str], until: int) -> bool:
    """Listen after the last event that was heard, until so many were or the stream breaks. Tells whether it ended."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": heard[-1]} if heard else {})
    try:
        with (
            site.http() as http,
            http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/events", headers=headers) as answer,
        ):
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line == "event: end":
                    return True
                if line.startswith("id: "):
                    heard.append(line.removeprefix("id: "))
                    if len(heard) == until:
                        return False
    except httpx.TransportError:
        pass
    return False


def test_a_stream_that_a_killed_api_breaks_off_is_taken_up_without_gap_or_double(site: Site) -> None:
    job_id = site.submit(STEPS, CHECKPOINT_EVERY)
    heard: list[str] = []
    assert not follow(site, job_id, heard, until=20)
    assert site.api is not None
    site.api.kill()
    assert not follow(site, job_id, heard, until=1000)  # nobody is there
    assert len(heard) == 20 and site.bench.job(job_id).status is not JobStatus.SUCCEEDED
    site.start()
    assert follow(site, job_id, heard, until=1000)
    assert heard == [event.id for event in site.bench.events(job_id)]
    site.assert_whole(job_id, STEPS)
