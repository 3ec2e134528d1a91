"""The dashboard on a phone of 360 px: nothing scrolls sideways, rows of tables are cards that name their cells."""

import json

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import api, show, too_wide

LABELS = ("cancellation-of-a-subscription", "complaint-about-an-invoice")
WIDTHS = (360, 800, 801, 1280)
DRAWN = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"""


@pytest.fixture
def pair(service, tmp_path):
    """Two jobs with reports, on files with long names, long words and something to warn of."""
    path = tmp_path / f"{'a-very-long-name-of-a-file-' * 4}of-tickets.jsonl"
    rows = [{"text": f"{label} {'x' * 60} number {n}", "label": label} for label in LABELS for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    ids = []
    for steps in (2, 3):
        settings = (f"optimization.max_steps={steps}", "task.max_tokens=256", "checkpoint.every_steps=1")
        options = (part for each in settings for part in ("--set", each))
        job = service.sgg_json("jobs", "submit", "--model", "tiny", "--train", path, "--validation", path, *options)
        service.wait_for_success(job["id"])
        ids.append(job["id"])
    return ids


def test_no_page_and_no_table_scrolls_sideways(phone, service, pair):
    with api(service) as http:
        path = f"/organization/projects/{http.get('/project').json()['id']}/api_keys"
        http.post(
            path, json={"name": "a key with a long name " * 4, "scopes": ["jobs:read", "files:read", "models:try"]}
        )
    places = (
        f"jobs/{pair[0]}",
        f"compare?jobs={','.join(pair)}",
        "jobs",
        "files",
        "keys",
        "system",
        f"new?from={pair[0]}",
    )
    found = {}
    for place in places:
        show(phone, service, place)
        if place.startswith("jobs/"):
            expect(phone.get_by_text("What it is worth")).to_be_visible()
        for width in WIDTHS:
            phone.set_viewport_size({"width": width, "height": 740})
            phone.evaluate(DRAWN)
            found[place, width] = too_wide(phone)
    assert {at: parts for at, parts in found.items() if parts} == {}


def test_all_pages_are_in_sight_and_sizes_stay_beside_their_files(phone, service, pair):
    show(phone, service, f"jobs/{pair[0]}")
    for width in (360, 600, 601, 800):
        phone.set_viewport_size({"width": width, "height": 740})
        phone.evaluate(DRAWN)
        boxes = [link.bounding_box() for link in phone.locator("nav a").all()]
        assert len(boxes) == 7
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert phone.locator("nav").evaluate("nav => nav.scrollWidth <= nav.clientWidth")
        assert phone.locator(".side").bounding_box()["height"] < 90
    phone.set_viewport_size({"width": 360, "height": 740})
    phone.evaluate(DRAWN)
    results = phone.locator(".card", has=phone.get_by_role("heading", name="Downloads")).locator("li")
    expect(results).to_have_count(2)
    for result in results.all():
        name, size = (result.locator(each).bounding_box() for each in ("a", ".num"))
        assert size["y"] < name["y"] + name["height"]
    file_id = service.job(pair[0])["training_file"]
    for place, link in ((f"jobs/{pair[0]}", phone.get_by_role("link", name=file_id)), ("files", phone.locator(".id"))):
        show(phone, service, place)
        assert link.first.bounding_box()["height"] < 30  # on one line


def test_rows_are_cards_whose_cells_are_named(phone, service, pair):
    show(phone, service, f"jobs/{pair[0]}")
    table = phone.get_by_role("table", name="Checkpoints")
    rows = table.get_by_role("row")
    expect(table.get_by_role("columnheader")).to_have_text(["Step", "Training loss", "Validation", "Files"])
    expect(rows.nth(1).get_by_role("cell")).to_have_count(4)
    names = rows.nth(1).evaluate(
        "row => [...row.cells].slice(1).map((cell) => getComputedStyle(cell, '::before').content.split('/')[0].trim())"
    )
    assert names == ['"Training loss"', '"Validation"', '"Files"']
    boxes = [cell.bounding_box() for cell in rows.nth(1).get_by_role("cell").all()]
    assert [box["y"] for box in boxes] == sorted({box["y"] for box in boxes})  # one below the other
    phone.set_viewport_size({"width": 1280, "height": 740})
    assert len({cell.bounding_box()["y"] for cell in rows.nth(1).get_by_role("cell").all()}) == 1


def test_a_checkpoint_is_a_model_that_can_be_tried(phone, service, pair):
    with api(service) as http:
        found = http.get(f"/fine_tuning/jobs/{pair[1]}/checkpoints").json()
    newest = found["data"][0]
    more = json.dumps({**found, "has_more": True})
    phone.route(f"**/{pair[1]}/checkpoints?*", lambda route: route.fulfill(body=more, content_type="application/json"))
    show(phone, service, f"jobs/{pair[1]}")
    table = phone.get_by_role("table", name="Checkpoints")
    expect(table.locator("code")).to_have_text([each["fine_tuned_model_checkpoint"] for each in found["data"]])
    expect(phone.get_by_text("The newest 50 are listed.")).to_be_visible()
    table.get_by_role("link", name=f"Try it as of step {newest['step_number']}").click()
    expect(phone.get_by_label("Model")).to_have_value(newest["fine_tuned_model_checkpoint"])
    expect(phone.get_by_role("heading", name="Before: tiny")).to_be_visible()


def test_a_row_of_the_list_of_jobs_is_not_cut(phone, service, tickets):
    service.submit(tickets)
    service.cancel_jobs()
    phone.set_viewport_size({"width": 280, "height": 740})
    show(phone, service, "jobs")
    about = phone.locator(".job").first.locator(".name > .cut")
    expect(about).to_contain_text("just now")
    assert about.evaluate("line => line.scrollWidth <= line.clientWidth")
    assert too_wide(phone) == []


def test_that_the_server_is_away_hides_no_link_to_a_page(phone):
    phone.route("**/v1/**", lambda route: route.abort())
    phone.get_by_role("link", name="Files").click()
    expect(phone.get_by_role("status").filter(has_text="The server does not answer.")).to_be_visible()
    phone.evaluate("document.querySelector('main').style.minHeight = '2000px'; scrollTo(0, 1000)")
    box = phone.get_by_role("link", name="Compare").bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert phone.evaluate("([x, y]) => document.elementFromPoint(x, y).textContent", middle) == "Compare"
