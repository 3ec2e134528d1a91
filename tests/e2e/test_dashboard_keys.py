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
        names = [link.inner_text() for link in page.get_by_role("navigation", name="Pages").get_by_role("link").all()]
        assert names == ["Jobs", "Compare", "Files", "Usage", "System"]
        for place, scope in (("new", "jobs:write"), ("try", "models:try")):
            show(page, service, place)
            expect(page.locator("main")).to_contain_text(f"It lacks the scope {scope}.")
        assert violations(page) == []
        with api(service) as http:
            (made,) = (each for each in http.get(path).json()["data"] if each["name"] == "reader")
            http.delete(f"{path}/{made['id']}").raise_for_status()
        page.evaluate("location.hash = '#/jobs'")
        expect(page.get_by_role("alert")).to_contain_text("The session has ended")
        expect(page.get_by_label("API key")).to_be_visible()


def test_keys_that_cannot_be_listed_are_asked_for_again_and_none_is_made_elsewhere(page, service, team):
    keys, projects = "**/v1/organization/projects/*/api_keys*", f"**/v1/organization/projects/{team['id']}"
    page.route(keys, lambda route: route.fulfill(status=500, json={"error": {"message": "The disk is away."}}))
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_role("alert")).to_contain_text("The disk is away.")
    page.unroute(keys)
    page.get_by_role("button", name="Try again").click()
    make = page.get_by_role("button", name="Make the key")
    expect(page.get_by_role("table", name="Keys")).to_contain_text("everything")
    page.get_by_label("Name").fill("for ninety days")
    for days in ("90 days", "1,5", "0"):
        page.get_by_label("Days until it expires").fill(days)
        make.click()
        expect(page.get_by_role("alert")).to_contain_text(f'"{days}" is not a valid number of days')
    page.route(projects, lambda route: route.fulfill(status=500, json={"error": {"message": "The disk is away."}}))
    page.get_by_label("Project", exact=True).select_option(team["id"])
    expect(page.get_by_role("alert")).to_contain_text("The disk is away.")
    expect(make).to_have_count(0)
    page.unroute(projects)
    page.get_by_role("button", name="Try again").click()
    page.get_by_label("Name").fill("for ninety days")
    make.click()
    expect(page.get_by_text("This is the key.")).to_be_visible()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as without TLS
    page.get_by_role("button", name="Copy it").click()
    expect(page.get_by_text("the key is marked")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == page.locator(".notice code").inner_text()
    with api(service) as http:
        made = http.get(f"/organization/projects/{team['id']}/api_keys").json()["data"]
        assert [each["name"] for each in made if each["expires_at"]] == ["for ninety days"]


def test_files_are_asked_for_again_by_a_button_or_when_the_server_is_back(page, service, tickets):
    service.sgg_json("files", "upload", tickets)
    files = "**/v1/files?*"
    page.route(files, lambda route: route.fulfill(status=500, json={"error": {"message": "The disk is away."}}))
    page.get_by_role("link", name="Files").click()
    expect(page.get_by_role("alert")).to_contain_text("The files cannot be listed")
    page.unroute(files)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("table", name="Files")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.route(files, lambda route: route.abort())
    page.get_by_role("button", name="All", exact=True).click()
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    expect(page.get_by_role("table", name="Files")).to_have_count(0)  # these were others
    page.unroute(files)
    expect(page.get_by_role("table", name="Files")).to_contain_text(tickets.name)
