"""The dashboard in a real browser: from a file to a tried adapter, and everything one does with a job on the way."""

import json
import re

import pytest
from playwright.sync_api import expect

from sgg_store.browser_sessions import BrowserSessions
from sgg_store.database import Database
from tests.e2e.browsing import PHONE, api, opened, origin, show, sign_in, too_wide, violations

QUICK = ("optimization.max_steps=6", "task.max_tokens=256", "optimization.batch_size=2")
LONG = ("optimization.max_steps=4000", "optimization.epochs=500", "task.max_tokens=256", "optimization.batch_size=1")


@pytest.fixture
def forty(tmp_path):
    """Forty labelled sentences, one of them twice."""
    texts = [f"{what} number {n}" for n in range(10) for what in ("invoice", "crash", "refund", "blank page")]
    rows = [{"text": text, "label": "bug" if "crash" in text or "page" in text else "bill"} for text in texts]
    path = tmp_path / "forty.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[5]]))
    return path


def another_link(service):
    """A link such as a server prints when it starts."""
    key_id = (service.data_dir / "admin-key").read_text().split("_")[1]
    database = Database(f"sqlite:///{service.data_dir}/sgg.sqlite3")
    with database.begin() as session:
        token = BrowserSessions(session).make_link(key_id, 60.0)
    database.dispose()
    return f"{origin(service)}/#sign-in={token}"


def status(page, name):
    expect(page.locator(".head .badge")).to_have_text(name)


def test_from_a_file_to_a_tried_and_downloaded_adapter_in_twelve_interactions(browser, own_service, forty):
    with opened(browser) as page:
        page.goto(own_service.announcement["dashboard"])  # 1: the link that the server printed
        page.get_by_role("link", name="New job").first.click()  # 2
        page.get_by_label("Drop a file here").set_input_files(forty)  # 3
        expect(page.get_by_text("1 example repeats an earlier one word for word.")).to_be_visible()
        page.get_by_role("button", name="Remove it").click()  # 4
        page.get_by_role("button", name="Save the changes").click()  # 5
        page.get_by_role("radio", name="tiny").check()  # 6
        page.get_by_text("More settings").click()
        page.get_by_label("Maximum steps").fill("6")  # for the test's sake, not counted
        page.get_by_role("button", name="Start the training").click()  # 7
        expect(page).to_have_url(re.compile(r"#/jobs/ftjob-"))
        status(page, "Succeeded")
        with page.expect_download() as download:
            page.get_by_role("link", name="adapter.tar.gz").click()  # 8
        assert download.value.path().read_bytes()[:2] == b"\x1f\x8b"
        page.get_by_role("link", name="Try it", exact=True).last.click()  # 9
        page.get_by_label("A sentence").fill("the invoice is wrong")  # 10
        held = []
        page.route("**/v1/classifications", lambda route: held.append(route))
        page.get_by_role("button", name="Ask both").click()  # 11
        expect(page.get_by_label("Model")).to_be_disabled()  # or the answer would come under another name
        page.get_by_label("A sentence").press("Control+Enter")
        page.get_by_label("A sentence").fill("the invoice is wrong again")
        assert len(held) == 1
        held[0].continue_()
        page.unroute("**/v1/classifications")
        expect(page.locator(".answers")).to_have_count(2)
        expect(page.get_by_label("Model")).to_be_enabled()
        for answer in page.locator(".answers").all():
            assert {text.split("\n")[0] for text in answer.locator("li").all_inner_texts()} == {"bill", "bug"}
        assert violations(page) == []
    with api(own_service) as http:
        files = http.get("/files", params={"purpose": "fine-tune"}).json()["data"]
    sizes = {file["filename"]: file["sgg"]["examples"] for file in files if file["filename"].startswith("forty")}
    assert sizes == {"forty.jsonl": 32, "forty.validation.jsonl": 8}  # what was replaced is gone


def test_a_link_works_once_also_where_the_page_is_open_already(browser, service):
    link = another_link(service)
    with opened(browser) as first:
        first.goto(origin(service))
        expect(first.get_by_role("heading", name="Sign in to SGG")).to_be_visible()
        first.evaluate("link => location.assign(link)", link)
        expect(first.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        assert "sign-in" not in first.url
    with opened(browser) as second:
        second.goto(link)
        expect(second.get_by_role("alert")).to_contain_text("This link was used")


def test_what_is_wrong_with_a_file_is_shown_at_its_line_and_mended_there(page, service, tmp_path):
    path = tmp_path / "broken.jsonl"
    good = [json.dumps({"text": f"text {n} of {label}", "label": label}) for n in range(4) for label in ("a", "b")]
    path.write_text("\n".join([*good[:3], '{"text": "here the label is missing"}', *good[3:]]) + "\n")
    show(page, service, "new")
    page.get_by_label("Drop a file here").set_input_files(path)
    finding = page.locator(".example", has_text="here the label is missing").first
    expect(finding).to_contain_text("4")
    finding.get_by_role("button", name="Remove example 4").click()
    page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_role("button", name="Start the training")).to_be_visible()


def test_a_wrong_key_is_told_at_the_door(browser, service):
    with opened(browser) as page:
        page.goto(f"{origin(service)}/")
        page.get_by_label("API key").fill("sgg_0123456789abcdef_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")


def test_who_moves_on_as_soon_as_the_first_page_is_seen_is_followed(browser, service):
    with opened(browser) as page:
        page.goto(f"{origin(service)}/")
        page.evaluate(
            """() => new MutationObserver((_, seen) => {
                if (document.querySelector("h1")?.textContent !== "Jobs") return;
                seen.disconnect();
                location.hash = "#/files";
            }).observe(document.body, {childList: true, subtree: true})"""
        )
        page.get_by_label("API key").fill((service.data_dir / "admin-key").read_text().strip())
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Files", exact=True)).to_be_visible()


def test_a_job_is_watched_paused_resumed_cancelled_and_deleted(page, service, tickets):
    job_id = service.submit(tickets, *LONG)
    show(page, service, f"jobs/{job_id}")
    plot = page.get_by_role("img", name=re.compile("^Loss"))
    expect(plot).to_have_attribute("data-points", re.compile(r"\d{2,}"))
    page.get_by_role("button", name="Pause").click()
    status(page, "Paused")
    held = service.job(job_id)["sgg"]["step"]
    expect(plot).to_have_attribute("data-points", str(held))
    page.get_by_role("button", name="Resume").click()
    status(page, "Running")
    expect(plot).not_to_have_attribute("data-points", str(held))
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel it").click()
    status(page, "Cancelled")
    expect(page.locator(".events")).to_contain_text("The job was cancelled.")
    show(page, service, "jobs?status=cancelled")
    expect(page.locator(".job").first).to_contain_text("Cancelled")
    show(page, service, f"jobs/{job_id}")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="No, go back")).to_be_focused()
    page.keyboard.press("Enter")
    assert service.job(job_id)["status"] == "cancelled"
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete it").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    with api(service) as http:
        assert http.get(f"/fine_tuning/jobs/{job_id}").status_code == 404


def test_no_point_is_lost_over_a_restart_of_the_server(browser, own_service, tickets):
    job_id = own_service.submit(tickets, *LONG[1:], "optimization.max_steps=300", "checkpoint.every_steps=40")
    with opened(browser) as page:
        sign_in(page, own_service)
        show(page, own_service, f"jobs/{job_id}")
        own_service.wait_for_step(job_id, 50)
        own_service.kill()
        expect(page.get_by_text("The server does not answer")).to_be_visible()
        own_service.start()
        expect(page.get_by_text("The server does not answer")).to_be_hidden()
        status(page, "Succeeded")  # the session outlived the server, too
        expect(page.get_by_role("img", name=re.compile("^Loss"))).to_have_attribute("data-points", "300")
        page.get_by_label("with figures").check()
        with api(own_service) as http:
            events = http.get(f"/fine_tuning/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
        expect(page.locator(".events li")).to_have_count(len(events))


def test_from_what_is_gone_a_way_leads_on(page, service, tickets):
    show(page, service, "jobs/ftjob-none")
    expect(page.get_by_role("alert")).to_contain_text("There is no fine-tuning job")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("link", name="To the jobs", exact=True).click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    show(page, service, f"compare?jobs={','.join(['ftjob-none'] * 2)}")  # one job, told twice
    expect(page.get_by_role("alert")).to_contain_text("Name 2 to 8")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.get_by_role("link", name="To the jobs", exact=True)).to_be_visible()
    show(page, service, "new?from=ftjob-none")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("link", name="Begin with a file").click()
    expect(page.get_by_label("Drop a file here")).to_be_attached()
    first, second = (service.sgg_json("files", "upload", tickets)[0]["id"] for _ in range(2))
    show(page, service, f"files?file={first}")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(first)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete it").click()
    expect(page.get_by_role("heading", name="There is no such file")).to_be_visible()
    page.get_by_role("link", name="Show all files").click()
    expect(page.get_by_text(second)).to_be_visible()


def test_the_address_has_the_filters_and_coming_back_keeps_them(page, service, tickets):
    with api(service) as http:
        file_id = service.sgg_json("files", "upload", tickets)[0]["id"]
        request = {"model": "tiny", "training_file": file_id, "metadata": {"name": "Wanted", "team": "a?b&c"}}
        job_id = http.post("/fine_tuning/jobs", json=request).raise_for_status().json()["id"]
        http.post(f"/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
    page.get_by_role("button", name="Cancelled").click()
    page.get_by_label("Filter by metadata").fill("team=a?b&c")
    expect(page.locator(".job")).to_have_count(1)
    page.get_by_role("link", name="Wanted").click()
    expect(page.locator("h1")).to_have_text("Wanted")
    for again in (page.go_back, page.reload):
        again()
        expect(page.get_by_role("button", name="Cancelled")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_label("Filter by metadata")).to_have_value("team=a?b&c")
        expect(page.locator(".job")).to_have_count(1)
    page.get_by_label("Pages").get_by_role("link", name="Jobs").click()
    expect(page.get_by_role("button", name="All", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Filter by metadata")).to_have_value("")
    expect(page).to_have_url(f"{origin(service)}/#/jobs")


@pytest.mark.parametrize(
    ("place", "told"), [("jobs/%", "no fine-tuning job"), ("nowhere", ""), ("nowhere/ftjob-1", "")]
)
def test_an_address_that_is_none_still_shows_a_page(page, service, place, told):
    page.goto(f"{origin(service)}/#/{place}")
    page.reload()
    expect(page.locator("h1")).to_be_visible()
    expect(page.get_by_label("Pages").locator("[aria-current=page]")).to_have_count(1)
    if told:
        expect(page.get_by_role("alert")).to_contain_text(told)
    else:
        expect(page.locator("h1")).to_have_text("Jobs")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_jobs_are_chosen_to_be_compared_wherever_one_has_scrolled_to(page, service, tickets):
    with api(service) as http:
        file_id = service.sgg_json("files", "upload", tickets)[0]["id"]
        request = {"model": "tiny", "training_file": file_id, "metadata": {"batch": "nine"}}
        for _ in range(9):
            job_id = http.post("/fine_tuning/jobs", json=request).raise_for_status().json()["id"]
            http.post(f"/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
    page.set_viewport_size({"width": 1280, "height": 400})
    page.get_by_label("Filter by metadata").fill("batch=nine")
    ticks = page.locator(".pick")
    expect(ticks).to_have_count(9)
    ticks.nth(8).check()
    expect(page.get_by_text("Choose another job to compare this one with.")).to_be_in_viewport()
    ticks.nth(7).check()
    expect(page.get_by_role("link", name="Compare 2 jobs")).to_be_in_viewport()
    for number in range(7):
        ticks.nth(number).check()
    expect(page.get_by_text("At most 8 jobs can be compared; 9 are chosen.")).to_be_in_viewport()
    expect(page.get_by_role("link", name="Compare 9 jobs")).to_have_count(0)
    ticks.first.uncheck()
    page.get_by_role("link", name="Compare 8 jobs").click()
    expect(page.get_by_role("table", name="The jobs").locator("tbody tr")).to_have_count(8)


def test_what_is_wrong_with_an_uploaded_file_names_the_field_and_goes_with_another_list(page, service, tmp_path):
    path = tmp_path / "wrong.jsonl"
    path.write_text('{"txt": "I was charged twice", "label": "billing"}\n')
    show(page, service, "files")
    page.get_by_label("Upload a file").set_input_files(path)
    expect(page.get_by_role("alert")).to_contain_text('Line 1: The field "txt" is unknown.')
    expect(page.get_by_role("alert")).to_contain_text('Line 1: The field "text" is missing.')
    page.get_by_role("button", name="Results").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_is_away_is_told_wherever_one_has_scrolled_to(page, service):
    show(page, service, "keys")
    page.set_viewport_size({"width": 1280, "height": 300})
    page.route("**/*", lambda route: route.abort())
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert page.evaluate("scrollY") > 100
    page.get_by_label("Name").fill("reader")
    page.get_by_role("button", name="Make the key").click()
    told = page.get_by_text("This page continues by itself")
    expect(told).to_be_visible()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(told).to_be_in_viewport()
    page.unroute("**/*")
    expect(told).to_have_count(0)


def test_a_job_whose_file_is_deleted_offers_no_corrections_and_no_way_to_it(page, service, tmp_path):
    path = tmp_path / "marked.jsonl"
    labels = ["bill" if n % 2 else "bug" for n in range(16)]
    texts = {"bill": "the invoice is wrong", "bug": "the app crashes"}
    rows = [{"text": f"{texts[label]}, case {n}", "label": label} for n, label in enumerate(labels)]
    rows[2]["label"] = "bill"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job_id = service.submit(path, *QUICK)
    service.wait_for_success(job_id)
    show(page, service, f"jobs/{job_id}")
    correct = page.get_by_role("link", name="Correct them and run again")
    expect(correct).to_have_count(1)
    file_id = service.job(job_id)["training_file"]
    with api(service) as http:
        http.delete(f"/files/{file_id}").raise_for_status()
    page.reload()
    expect(page.get_by_role("heading", name="Examples to look at again")).to_be_visible()
    expect(correct).to_have_count(0)
    expect(page.get_by_text("It is deleted.")).to_be_visible()
    expect(page.get_by_role("link", name=file_id)).to_have_count(0)
    expect(page.get_by_text("The share of examples that come out right.")).to_be_visible()


def test_a_failed_job_says_why_and_what_to_do(page, service, tickets):
    job_id = service.submit(tickets, *QUICK, 'lora.targets=["no_such_layer"]')
    show(page, service, f"jobs/{job_id}")
    status(page, "Failed")
    expect(page.get_by_role("alert")).to_contain_text("no_such_layer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_used_with_assistive_technology(browser, service, tickets, scheme):
    pair = [service.submit(tickets, *QUICK, f"optimization.learning_rate={rate}") for rate in (0.001, 0.01)]
    for job_id in pair:
        service.wait_for_success(job_id)
    found = {}
    with opened(browser, color_scheme=scheme, viewport=PHONE) as page:
        page.goto(f"{origin(service)}/")
        expect(page.get_by_label("API key")).to_be_visible()
        found["sign in"] = violations(page)
        sign_in(page, service)
        compared = f"compare?jobs={','.join(pair)}"
        of_job = (f"jobs/{pair[0]}", f"new?from={pair[0]}", compared)
        for place in ("jobs", *of_job, "new", "try", "compare", "files", "keys", "system"):
            show(page, service, place)
            found[place] = violations(page)
            assert too_wide(page) == [], place
    assert {place: problems for place, problems in found.items() if problems} == {}


def test_what_is_chosen_can_be_told_where_the_system_sets_the_colours(page, service):
    page.emulate_media(forced_colors="active")
    show(page, service, "jobs")
    colour = "part => getComputedStyle(part).backgroundColor"
    for chosen, other in (
        (page.get_by_role("button", name="All", exact=True), page.get_by_role("button", name="Running")),
        (page.locator("nav a[aria-current]"), page.get_by_label("Pages").get_by_role("link", name="Files")),
    ):
        assert chosen.evaluate(colour) != other.evaluate(colour)


def test_the_keyboard_reaches_everything(page, service):
    show(page, service, "jobs")
    page.reload()
    expect(page.locator("h1")).to_be_visible()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached[0] == "Skip to the content"
    assert {"Jobs", "New job", "Try it", "Compare", "Files", "Keys", "System"} <= {text.strip() for text in reached}
