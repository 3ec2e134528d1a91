"""What the dashboard shows to a key that is no administrator's: its own project's figures, and what the key may do."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import PHONE, api, opened, show, sign_in, too_wide, violations

QUOTAS = {"running_jobs": 3, "queued_jobs": 2, "stored_bytes": 2000, "trainer_seconds_per_day": 7200}


@pytest.fixture
def team(service):
    """A project with quotas of its own: {id, key}, where the key may see jobs and bring files."""
    with api(service) as http:
        project = http.post("/organization/projects", json={"name": "Team A", "sgg": {"quotas": QUOTAS}}).json()["id"]
        scopes = ["jobs:read", "jobs:write", "files:read", "files:write"]
        path = f"/organization/projects/{project}/api_keys"
        yield {"id": project, "key": http.post(path, json={"name": "the team's", "scopes": scopes}).json()["value"]}


def test_a_project_sees_what_it_uses_of_its_quotas_and_what_happens_at_the_limits(browser, service, team, tickets):
    with opened(browser, viewport=PHONE) as page:
        sign_in(page, service, team["key"])
        page.get_by_role("link", name="Usage").click()
        facts = page.locator("dl.facts > div")
        expect(facts).to_have_text(
            ["Running jobs0of 3", "Waiting jobs0of 2", "Stored files0 Bof 2.0 KiB", "Trained today0 sof 2 h 0 min"]
        )
        expect(page.locator(".notice.warn")).to_have_count(0)
        filled = tickets.read_text() * 6
        stored = page.evaluate(
            """async (content) => (await (await import(
                document.querySelector("script[type=module]").src.replace("app.js", "api.js")
            )).upload("big.jsonl", content)).bytes""",
            filled[:1900].rpartition("\n")[0] + "\n",
        )
        assert stored > 0.9 * QUOTAS["stored_bytes"]
        # the page follows what is used
        expect(page.locator(".notice.warn")).to_contain_text(
            "At the limit: uploads are refused until files are deleted."
        )
        expect(page.get_by_role("progressbar", name="Stored files")).to_have_attribute(
            "aria-valuenow", str(round(stored / QUOTAS["stored_bytes"] * 100))
        )
        mine = page.locator("dl.pairs")
        expect(mine).to_contain_text("It may create and cancel jobs.")
        expect(mine).to_contain_text("It may not try models out.")
        expect(page.get_by_role("button", name="Make the key")).to_have_count(0)
        assert too_wide(page) == []
        assert violations(page) == []
        page.get_by_role("link", name="Waiting jobs").click()
        expect(page.get_by_role("button", name="Queued")).to_have_attribute("aria-pressed", "true")


def test_a_key_that_only_reads_jobs_sees_their_names(browser, service, team, tickets):
    job_id = service.sgg_json("jobs", "submit", "--model", "tiny", "--train", tickets, "--suffix", "my-tickets")["id"]
    with api(service) as http:
        http.post(f"/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
        path = f"/organization/projects/{http.get('/project').json()['id']}/api_keys"
        key = http.post(path, json={"name": "reader", "scopes": ["jobs:read"]}).json()["value"]
    with opened(browser) as page:
        sign_in(page, service, key)
        show(page, service, f"jobs/{job_id}")
        expect(page.locator("h1")).to_have_text("my-tickets")
        assert violations(page) == []
