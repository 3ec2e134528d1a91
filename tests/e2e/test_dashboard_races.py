"""The dashboard where something comes late: an answer after a newer one, a click before the page has settled."""

import json
import re

from playwright.sync_api import expect

from tests.e2e.browsing import api, opened, origin, show, sign_in

# Acts as soon as an element is there: sooner than what the page does after painting, as on a busy machine.
AT_ONCE = """([selector, act]) => new MutationObserver((_, seen) => {
  const found = document.querySelector(selector);
  if (!found) return;
  seen.disconnect();
  window.acted = true;
  found[act]();
}).observe(document.body, { childList: true, subtree: true })"""

SETTLED = """async () => { for (let turn = 0; turn < 5; turn += 1) {
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)));
} }"""


class Held:
    """A request whose answer does not reach the page before it is let go. What is posted does not reach the server."""

    def __init__(self, page, address, method="GET"):
        self._page, self._address, self._method = page, address, method
        self._route = self._answer = None

    def __enter__(self):
        self._page.route(self._address, self._hold)
        return self

    def __exit__(self, *failure):
        self._page.unroute(self._address, self._hold)

    def _hold(self, route):
        if route.request.method != self._method or self._route:
            route.fallback()
            return
        self._route = route
        self._answer = None if self._method == "POST" else route.fetch()

    def wait(self):
        """Wait until the page has sent the first request, and the server has answered it if it may."""
        while not self._route or (self._answer is None and self._method != "POST"):
            self._page.wait_for_timeout(20)

    def let_go(self, **answer):
        """Let the page have the answer, or another one instead, and wait for what it does with it."""
        self.wait()
        with self._page.expect_response(lambda response: response.request == self._route.request):
            if answer or self._answer:
                self._route.fulfill(**(answer or {"response": self._answer}))
            else:
                self._route.continue_()
        self._page.evaluate(SETTLED)


def go(page, name):
    page.get_by_label("Pages").get_by_role("link", name=name, exact=True).click()
    expect(page.locator("h1")).to_have_text(name)


def acted(page):
    page.wait_for_function("window.acted")
    page.evaluate(SETTLED)


def test_what_is_uploaded_while_another_list_is_chosen_is_shown_there(page, service, tickets):
    named = tickets.rename(tickets.with_name("late.jsonl"))
    show(page, service, "files")
    with Held(page, "**/v1/files", "POST") as held:
        page.get_by_label("Upload a file").set_input_files(named)
        held.wait()
        page.get_by_role("button", name="All", exact=True).click()
        expect(page.locator(".bone")).to_have_count(0)
        held.let_go()
    expect(page.get_by_role("link", name="late.jsonl", exact=True)).to_be_visible()
    expect(page.locator(".bone")).to_have_count(0)


def test_an_error_stays_when_something_else_succeeds_afterwards(page, service, tickets):
    file_id = service.sgg_json("files", "upload", tickets)[0]["id"]
    show(page, service, "files")
    with Held(page, "**/v1/files", "POST") as upload, Held(page, f"**/v1/files/{file_id}", "DELETE") as deletion:
        page.get_by_label("Upload a file").set_input_files(tickets)
        upload.wait()
        row = page.get_by_role("row").filter(has_text=file_id)
        row.get_by_role("button", name="Delete").click()
        row.get_by_role("button", name="Yes, delete it").click()
        deletion.let_go(status=409, json={"error": {"message": "In use."}})
        expect(page.get_by_role("alert")).to_contain_text("In use.")
        upload.let_go()
    expect(page.get_by_role("alert")).to_contain_text("In use.")


def test_figures_that_were_asked_for_before_the_end_do_not_take_the_last_ones_away(browser, scripted):
    with opened(browser) as page:
        job_id = scripted.server.job_id()
        worker = scripted.server.claim(job_id)
        for step in (1, 2, 3):
            worker.step(step)
        sign_in(page, scripted)
        show(page, scripted, f"jobs/{job_id}")
        plot = page.get_by_role("img", name=re.compile("^Loss"))
        expect(plot).to_have_attribute("data-points", "3")
        with Held(page, f"**/{job_id}/metrics?*") as held:
            held.wait()
            worker.step(4)
            worker.step(5)
            worker.fail("internal_error", "The end.")
            expect(plot).to_have_attribute("data-points", "5")
            held.let_go()
        expect(plot).to_have_attribute("data-points", "5")


def test_a_job_is_asked_for_once_for_all_messages_that_come_together(browser, scripted):
    with opened(browser) as page:
        job_id = scripted.server.job_id()
        worker = scripted.server.claim(job_id)
        worker.say(*(f"message {number}" for number in range(40)))
        worker.fail("internal_error", "The end.")
        sign_in(page, scripted)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        show(page, scripted, f"jobs/{job_id}")
        expect(page.get_by_text("message 39")).to_be_visible()
        page.evaluate(SETTLED)
        assert 1 <= sum(url.endswith(f"/jobs/{job_id}") for url in asked) <= 5


def test_no_events_are_asked_for_of_a_job_that_is_not_there(page, service):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, service, "jobs/ftjob-none")
    expect(page.get_by_role("alert")).to_be_visible()
    before = len(asked)
    page.wait_for_timeout(2500)  # a stream that is refused comes again every second
    assert not [url for url in asked[before:] if "/events" in url]


def test_a_curve_in_the_list_is_the_newest(browser, scripted):
    with opened(browser) as page:
        job_id = scripted.server.job_id()
        worker = scripted.server.claim(job_id)
        worker.step(1)
        with Held(page, f"**/{job_id}/metrics?*") as held:
            sign_in(page, scripted)
            held.wait()
            worker.step(2)
            worker.step(3)
            worker.fail("internal_error", "The end.")
            expect(page.locator("svg.spark path")).to_have_count(1)
            held.let_go()
        expect(page.locator("svg.spark path")).to_have_count(1)


def test_who_signs_out_is_not_told_that_the_session_has_ended(browser, service):
    refused = {"error": {"message": "Not signed in."}}
    with opened(browser) as page:
        sign_in(page, service)
        with Held(page, "**/v1/fine_tuning/jobs?*") as poll, Held(page, "**/dashboard/session", "DELETE") as leave:
            poll.wait()
            page.get_by_role("button", name="Sign out").click()
            leave.wait()
            poll.let_go(status=401, json=refused)
            leave.let_go()
            expect(page.get_by_role("heading", name="Sign in to SGG")).to_be_visible()
            expect(page.get_by_role("alert")).to_have_count(0)


def test_an_answer_to_an_earlier_session_does_not_end_the_present_one(browser, service):
    with opened(browser) as page:
        sign_in(page, service)
        with Held(page, "**/v1/fine_tuning/jobs?*") as poll:
            poll.wait()
            page.get_by_role("button", name="Sign out").click()
            page.get_by_label("API key").fill((service.data_dir / "admin-key").read_text().strip())
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
            poll.let_go(status=401, json={"error": {"message": "Not signed in."}})
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_who_moves_on_just_after_choosing_a_filter_is_followed(page, service):
    page.evaluate(
        """() => {
            const chip = [...document.querySelectorAll(".chip")].find((each) => each.textContent === "Failed");
            new MutationObserver((_, seen) => {
                seen.disconnect();
                requestAnimationFrame(() => {
                    for (const began = performance.now(); performance.now() < began + 50;);
                    location.hash = "#/files";
                });
            }).observe(chip, { attributes: true });
            chip.click();
        }"""
    )
    expect(page.get_by_role("heading", name="Files", exact=True)).to_be_visible()


def test_filters_that_are_chosen_at_once_are_kept(page, service):
    go(page, "Files")
    page.evaluate(AT_ONCE, ["[aria-label=State] .chip:last-child", "click"])
    go(page, "Jobs")
    acted(page)
    expect(page.get_by_role("button", name="Cancelled")).to_have_attribute("aria-pressed", "true")


def test_the_focus_is_not_taken_from_who_has_gone_on_with_it(page, service):
    page.get_by_label("Filter by metadata").evaluate("field => { field.dataset.old = 1; }")
    page.evaluate(AT_ONCE, ["input[type=search]:not([data-old])", "focus"])
    go(page, "Files")
    go(page, "Jobs")
    acted(page)
    expect(page.get_by_label("Filter by metadata")).to_be_focused()
    with Held(page, "**/v1/models") as held:
        go(page, "New job")
        expect(page.locator("h1")).to_be_focused()
        held.wait()
        elsewhere = page.get_by_label("Pages").get_by_role("link", name="System")
        elsewhere.focus()
        held.let_go()
    expect(page.get_by_text("Drop a file here")).to_be_visible()
    expect(elsewhere).to_be_focused()
    go(page, "System")
    with Held(page, "**/v1/models") as held:  # but it goes to the heading where it had not gone on from there
        go(page, "New job")
        expect(page.locator("h1")).to_be_focused()
        held.let_go()
    expect(page.locator(".bone")).to_have_count(0)
    expect(page.locator("h1")).to_be_focused()


def test_who_has_gone_elsewhere_is_not_taken_back(page, service, tickets):
    file_id = service.sgg_json("files", "upload", tickets)[0]["id"]
    show(page, service, f"new?file={file_id}")
    with Held(page, "**/v1/fine_tuning/jobs", "POST") as held:
        page.get_by_role("button", name="Start the training").click()
        held.wait()
        go(page, "System")
        held.let_go()
    expect(page).to_have_url(f"{origin(service)}/#/system")
    show(page, service, f"files?file={file_id}")
    with Held(page, "**/v1/files", "POST") as held:
        page.get_by_label("Upload a file").set_input_files(tickets)
        held.wait()
        go(page, "System")
        held.let_go()
    expect(page).to_have_url(f"{origin(service)}/#/system")


def test_another_file_is_chosen_once_the_one_before_is_looked_into(page, service, tickets):
    show(page, service, "new")
    with Held(page, "**/v1/files", "POST") as held:
        page.locator("input[type=file]").set_input_files(tickets)
        held.wait()
        expect(page.locator("input[type=file]")).to_be_disabled()
        dropped = json.dumps({"text": "dropped", "label": "none"})
        page.evaluate(
            """(line) => {
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([line], "dropped.jsonl"));
                document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
            }""",
            dropped,
        )
        held.let_go()
    expect(page.get_by_role("button", name="Start the training")).to_be_visible()
    expect(page.get_by_text("tickets.jsonl, 8 examples")).to_be_visible()
    expect(page.locator("input[type=file]")).to_be_enabled()


def test_a_key_is_shown_also_if_its_answer_is_late(page, service):
    with api(service) as http:
        http.post("/organization/projects", json={"name": "Beside"}).raise_for_status()
    show(page, service, "keys")
    with Held(page, "**/api_keys", "POST") as held:
        page.get_by_label("Name").fill("the first")
        page.get_by_role("button", name="Make the key").click()
        held.wait()
        expect(page.get_by_label("Project", exact=True)).to_be_disabled()  # or the key would never be shown
        page.get_by_label("Name").fill("the second")
        held.let_go()
    expect(page.locator(".notice.good code")).to_have_text(re.compile("^sgg_"))
    expect(page.get_by_label("Name")).to_have_value("the second")
    expect(page.get_by_label("Project", exact=True)).to_be_enabled()


def test_the_page_of_the_system_tells_too_that_the_server_is_away(page, service):
    show(page, service, "system")
    page.route("**/*", lambda route: route.abort())
    told = page.get_by_text("This page continues by itself")
    expect(told).to_be_visible()
    page.unroute("**/*")
    expect(told).to_have_count(0)
